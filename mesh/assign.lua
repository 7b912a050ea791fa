-- What Envoy does with a request in the place of a router of ours: read the model's name, assign, choose the cluster,
-- and say which variant answered. The same units get the same variants as by bandit/assignment.py, bit for bit; ids
-- are those of router/assignment_id.py. tests/unit/mesh/test_script.py holds the two sides together.
--
-- Set by the line before this script: KEY_FILE, the path of the installation's key of assignment ids.
-- Comes with every route: the model's variants, layout, epoch and salt, as metadata of this filter (mesh/routes.py).

local ffi = require("ffi")
local bit = require("bit")
local bxor, band, rshift, ror, bswap = bit.bxor, bit.band, bit.rshift, bit.ror, bit.bswap

local script = {}

local EVIDENCE, MASKED, STICKY = 1, 4, 16
local NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED = 5, 3, 12
local SERVICE = "/inference.GRPCInferenceService/"
local NAMED = {ModelReady = true, ModelMetadata = true, ModelConfig = true, ModelStatistics = true}
local NAMELESS = {ServerLive = true, ServerReady = true, ServerMetadata = true}
local CLUSTER = "x-anabranch-cluster"
local LOG = "anabranch"

-- BLAKE2b (RFC 7693), keyed. The state after the key's block is kept: a short message costs one compression.

local IV = ffi.new("uint64_t[8]", {
  0x6a09e667f3bcc908ULL, 0xbb67ae8584caa73bULL, 0x3c6ef372fe94f82bULL, 0xa54ff53a5f1d36f1ULL,
  0x510e527fade682d1ULL, 0x9b05688c2b3e6c1fULL, 0x1f83d9abfb41bd6bULL, 0x5be0cd19137e2179ULL,
})
local SIGMA = {}
for round, order in ipairs({
  "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", "14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3",
  "11 8 12 0 5 2 15 13 10 14 3 6 7 1 9 4", "7 9 3 1 13 12 11 14 2 6 5 10 4 0 15 8",
  "9 0 5 7 2 4 10 15 14 1 11 12 6 8 3 13", "2 12 6 10 0 11 8 3 4 13 7 5 15 14 1 9",
  "12 5 1 15 14 13 4 10 0 7 6 3 9 2 8 11", "13 11 7 14 12 1 3 9 5 0 15 4 8 6 2 10",
  "6 15 14 9 11 3 0 8 12 2 13 7 1 4 10 5", "10 2 8 4 7 6 1 5 15 11 9 14 3 12 13 0",
}) do
  local row = ffi.new("uint8_t[16]")
  local at = 0
  for number in order:gmatch("%d+") do
    row[at] = tonumber(number)
    at = at + 1
  end
  SIGMA[round - 1] = row
end
SIGMA[10], SIGMA[11] = SIGMA[0], SIGMA[1]

local words = ffi.new("uint64_t[16]")
local v = ffi.new("uint64_t[16]")

local function mix(a, b, c, d, x, y)
  v[a] = v[a] + v[b] + x
  v[d] = ror(bxor(v[d], v[a]), 32)
  v[c] = v[c] + v[d]
  v[b] = ror(bxor(v[b], v[c]), 24)
  v[a] = v[a] + v[b] + y
  v[d] = ror(bxor(v[d], v[a]), 16)
  v[c] = v[c] + v[d]
  v[b] = ror(bxor(v[b], v[c]), 63)
end

local function compress(state, total, is_last)
  for i = 0, 7 do
    v[i] = state[i]
    v[i + 8] = IV[i]
  end
  v[12] = bxor(v[12], ffi.cast("uint64_t", total))
  if is_last then v[14] = bit.bnot(v[14]) end
  for round = 0, 11 do
    local s = SIGMA[round]
    mix(0, 4, 8, 12, words[s[0]], words[s[1]])
    mix(1, 5, 9, 13, words[s[2]], words[s[3]])
    mix(2, 6, 10, 14, words[s[4]], words[s[5]])
    mix(3, 7, 11, 15, words[s[6]], words[s[7]])
    mix(0, 5, 10, 15, words[s[8]], words[s[9]])
    mix(1, 6, 11, 12, words[s[10]], words[s[11]])
    mix(2, 7, 8, 13, words[s[12]], words[s[13]])
    mix(3, 4, 9, 14, words[s[14]], words[s[15]])
  end
  for i = 0, 7 do state[i] = bxor(state[i], bxor(v[i], v[i + 8])) end
end

local function absorb(state, data, from, size, total, is_last)
  ffi.fill(words, 128)
  ffi.copy(words, ffi.cast("const char *", data) + from, size)
  compress(state, total, is_last)
end

-- A function from a message of at least one byte to its digest: `size` bytes, and the first word of the state.
function script.hasher(key, size)
  local after_key = ffi.new("uint64_t[8]")
  ffi.copy(after_key, IV, 64)
  after_key[0] = bxor(after_key[0], ffi.cast("uint64_t", 0x01010000 + #key * 256 + size))
  absorb(after_key, key, 0, #key, 128, false)
  local state = ffi.new("uint64_t[8]")
  return function(data)
    ffi.copy(state, after_key, 64)
    local from = 0
    while #data - from > 128 do
      absorb(state, data, from, 128, 128 + from + 128, false)
      from = from + 128
    end
    absorb(state, data, from, #data - from, 128 + #data, true)
    return ffi.string(state, size), state[0]
  end
end

-- Assignment: bandit/assignment.py.

function script.unit_point(hash, unit)
  local _, word = hash(unit)
  return tonumber(rshift(bswap(word), 11)) * 2 ^ -53
end

function script.arm_at(ends, owners, point)
  local low, high = 1, #ends + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if point < ends[middle] then high = middle else low = middle + 1 end
  end
  return owners[low]
end

-- Assignment ids: router/assignment_id.py.

ffi.cdef([[
  typedef struct __attribute__((packed)) {
    uint8_t version; uint32_t experiment; uint32_t epoch; uint8_t arm; uint8_t flags;
    uint32_t lane; uint64_t sequence; int32_t top1; float propensity;
  } anabranch_assignment;
]])

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

local function base64(data)
  local out = {}
  for at = 1, #data, 3 do
    local a, b, c = data:byte(at, at + 2)
    local number = a * 65536 + (b or 0) * 256 + (c or 0)
    for shift = 18, c and 0 or (b and 6 or 12), -6 do
      local index = band(rshift(number, shift), 63) + 1
      out[#out + 1] = ALPHABET:sub(index, index)
    end
  end
  return table.concat(out)
end

function script.assignment_id(mac, experiment, epoch, arm, flags, lane, high, low, propensity)
  local body = ffi.new("anabranch_assignment")
  body.version, body.experiment, body.epoch, body.arm, body.flags = 1, experiment, epoch, arm, flags
  body.lane = lane
  body.sequence = ffi.cast("uint64_t", high) * 4294967296ULL + ffi.cast("uint64_t", low)
  body.top1, body.propensity = -1, propensity
  local bytes = ffi.string(body, ffi.sizeof(body))
  return base64(bytes .. (mac(bytes)))
end

-- Messages: proto/scan.py. Of a field that is given twice, protobuf takes the last.

local function varint(bytes, at, stop)
  local value, factor = 0, 1
  while at < stop do
    local byte = bytes[at]
    at = at + 1
    value = value + band(byte, 127) * factor
    if byte < 128 then return value, at end
    factor = factor * 128
  end
  return nil
end

-- The model's name and version in one gRPC message, or nil and why it cannot be read.
function script.head(frame)
  if #frame < 5 then return nil, "the request ends within a message" end
  local bytes = ffi.cast("const uint8_t *", frame)
  if bytes[0] ~= 0 then return nil, "compressed requests are not read here: send them uncompressed" end
  local size = ((bytes[1] * 256 + bytes[2]) * 256 + bytes[3]) * 256 + bytes[4]
  if size + 5 ~= #frame then return nil, "the request is not one whole message" end
  local name, version, at, stop = "", "", 5, #frame
  while at < stop do
    local tag, length
    tag, at = varint(bytes, at, stop)
    if not tag then return nil, "the message ends within a field" end
    local kind = tag % 8
    if kind == 2 then
      length, at = varint(bytes, at, stop)
      if not length or at + length > stop then return nil, "the message ends within a field" end
      if tag == 10 then name = ffi.string(bytes + at, length) end
      if tag == 18 then version = ffi.string(bytes + at, length) end
      at = at + length
    elseif kind == 0 then
      length, at = varint(bytes, at, stop)
      if not length then return nil, "the message ends within a field" end
    elseif kind == 1 then
      at = at + 8
    elseif kind == 5 then
      at = at + 4
    else
      return nil, "the message is no protobuf"
    end
  end
  if at > stop then return nil, "the message ends within a field" end
  return name, version
end

local function as_varint(value)
  local out = {}
  while value >= 128 do
    out[#out + 1] = string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  out[#out + 1] = string.char(value)
  return table.concat(out)
end

local function text_field(number, text)
  return string.char(number * 8 + 2) .. as_varint(#text) .. text
end

local function parameter(key, text)
  local choice = text_field(3, text)
  local entry = text_field(1, key) .. text_field(2, choice)
  return text_field(4, entry)
end

-- The frame with fields appended to its message.
function script.extended(frame, more)
  local size = #frame - 5 + #more
  local head = string.char(
    0, math.floor(size / 16777216), math.floor(size / 65536) % 256, math.floor(size / 256) % 256, size % 256
  )
  return head .. frame:sub(6) .. more
end

function script.renamed(model, version)
  return text_field(1, model) .. text_field(2, version)
end

function script.told(model, variant, id, experiment)
  local more = script.renamed(model, variant) .. parameter("invoked_variant", variant)
  if id then more = more .. parameter("assignment_id", id) .. parameter("experiment", experiment) end
  return more
end

-- One Lua state a worker thread of Envoy: it numbers its own assignments below a random prefix.

local function random_bytes(count)
  local file = assert(io.open("/dev/urandom", "rb"))
  local bytes = file:read(count)
  file:close()
  return bytes
end

local seed = random_bytes(8)
local high = 0
for at = 1, 4 do high = high * 256 + seed:byte(at) end
high = high % 2147483648
math.randomseed(high * 65536 + seed:byte(5) * 256 + seed:byte(6))
local counter = 0
local key = nil

local function installation_key()
  if key == nil then
    local file = io.open(KEY_FILE, "rb")
    key = file and file:read("*a") or false
    if file then file:close() end
  end
  return key
end

local routes = {version = false}

local function kept(model)
  model.hash = model.salt ~= "" and script.hasher(model.salt, 8) or false
  for arm, name in ipairs(model.arms) do model.arms[arm - 1] = name end
  for arm, weight in ipairs(model.weights) do model.weights[arm - 1] = weight end
  local ejected = {}
  for _, name in ipairs(model.ejected) do ejected[name] = true end
  model.ejected = ejected
  return model
end

function script.routes(metadata)
  local version = metadata:get("version")
  if version ~= routes.version then
    routes = {version = version, lane = metadata:get("lane"), default = metadata:get("default")}
    routes.models = metadata:get("models") or {}
    for _, model in pairs(routes.models) do kept(model) end
    local secret = installation_key()
    routes.mac = secret and script.hasher(secret, 8)
    routes.digest = secret and script.hasher(secret, 16)
  end
  return routes
end

local function hex(bytes)
  return (bytes:gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end

-- Which variant is asked, and what is written down: by the experiment's coin, or the baseline where there is none.
function script.assign(known, model, unit, draw)
  local chosen = {variant = model.arms[0]}
  if model.experiment_id == 0 or not known.mac then return chosen end
  local point, flags, digest = draw, EVIDENCE, string.rep("0", 32)
  if model.unit ~= "" then
    if not unit or unit == "" then return chosen end
    point, flags, digest = script.unit_point(model.hash, unit), EVIDENCE + STICKY, hex((known.digest(unit)))
  end
  local arm = script.arm_at(model.ends, model.owners, point)
  chosen.variant, chosen.experiment = model.arms[arm], model.experiment
  if arm ~= 0 and model.ejected[chosen.variant] then
    -- The failure is the candidate's, the answer the baseline's.
    chosen.variant, flags = model.arms[0], flags + MASKED
  end
  counter = counter + 1
  local propensity = model.weights[arm]
  chosen.id = script.assignment_id(
    known.mac, model.experiment_id, model.epoch, arm, flags, known.lane, high, counter, propensity
  )
  chosen.record = string.format(
    "%d %d %d %d %d %d %d %.17g %s", model.experiment_id, model.epoch, arm, flags, known.lane, high, counter,
    propensity, digest
  )
  return chosen
end

local function refuse(handle, status, message)
  message = message:gsub("[^ -~]", "?"):gsub("%%", "%%25")
  handle:respond({
    [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = tostring(status),
    ["grpc-message"] = message,
  }, "")
end

local function last(headers, name)
  local count = headers:getNumValues(name)
  return count > 0 and headers:getAtIndex(name, count - 1) or nil
end

local function names(table_of)
  local found = {}
  for name in pairs(table_of) do found[#found + 1] = name end
  table.sort(found)
  return table.concat(found, ", ")
end

-- The model and the variant that a client chose, if it did; or nil, the status and why not.
function script.located(known, name, version, target)
  local model_name, chosen = name, version
  local slash = name:find("/", 1, true)
  if slash then
    model_name, chosen = name:sub(1, slash - 1), name:sub(slash + 1)
    if version ~= "" and version ~= chosen then
      return nil, NOT_FOUND, "the name and the version choose different variants: send one of them"
    end
  end
  local model = known.models[model_name]
  if not model then
    return nil, NOT_FOUND, "no model '" .. model_name .. "'. There are: " .. names(known.models)
  end
  if target and target ~= "" then
    if chosen ~= "" and chosen ~= target then
      return nil, INVALID_ARGUMENT, "x-target-variant and the request choose different variants: send one of them"
    end
    chosen = target
  end
  if chosen ~= "" and not model.variants[chosen] then
    return nil, NOT_FOUND, "model " .. model_name .. " has no variant '" .. chosen .. "'. There are: "
      .. names(model.variants)
  end
  return model, model_name, chosen
end

local function ask(handle, body, frame, model, variant)
  local server = model.variants[variant]
  body:setBytes(script.extended(frame, script.renamed(server.model, server.version)))
  handle:headers():replace(CLUSTER, server.cluster)
  handle:clearRouteCache()
end

function script.on_request(handle)
  local headers = handle:headers()
  -- Whoever could name a cluster would reach variants past their experiment, and the control plane itself.
  headers:remove(CLUSTER)
  local path = headers:get(":path")
  if path:sub(1, #SERVICE) ~= SERVICE then return end
  local method = path:sub(#SERVICE + 1)
  local known = script.routes(handle:metadata())
  if NAMELESS[method] then
    headers:replace(CLUSTER, known.default)
    handle:clearRouteCache()
    return
  end
  if method ~= "ModelInfer" and not NAMED[method] then
    refuse(handle, UNIMPLEMENTED, method .. " is not served through Envoy: ask a router")
    return
  end
  local target = last(headers, "x-target-variant")
  -- What was got of the handle before this wait is not to be used after it.
  local body = handle:body(true)
  local frame = body:getBytes(0, body:length())
  local name, version = script.head(frame)
  if not name then
    refuse(handle, frame:byte(1) == 1 and UNIMPLEMENTED or INVALID_ARGUMENT, version)
    return
  end
  local model, model_name, chosen = script.located(known, name, version, target)
  if not model then
    refuse(handle, model_name, chosen)
    return
  end
  if method ~= "ModelInfer" then
    ask(handle, body, frame, model, chosen ~= "" and chosen or model.arms[0])
    return
  end
  local choice = {variant = chosen}
  if chosen == "" then
    local unit = model.unit ~= "" and last(handle:headers(), model.unit) or nil
    local is_sound, found = pcall(script.assign, known, model, unit, math.random())
    -- In doubt the baseline serves, outside the experiment; the control plane hears why.
    choice = is_sound and found or {variant = model.arms[0], trouble = tostring(found)}
  end
  local log = handle:streamInfo():dynamicMetadata()
  log:set(LOG, "model", name)
  log:set(LOG, "variant", choice.variant)
  if choice.trouble then log:set(LOG, "trouble", choice.trouble) end
  if choice.record then
    log:set(LOG, "record", choice.record)
    log:set(LOG, "id", choice.id)
    log:set(LOG, "experiment", choice.experiment)
  end
  ask(handle, body, frame, model, choice.variant)
end

function script.on_response(handle)
  local log = handle:streamInfo():dynamicMetadata():get(LOG)
  if not log or not log.variant then return end
  local headers = handle:headers()
  headers:replace("x-invoked-variant", log.variant)
  if log.id then
    headers:replace("x-assignment-id", log.id)
    headers:replace("x-experiment", log.experiment)
  end
  local body = handle:body()
  if not body or body:length() < 5 then return end
  local frame = body:getBytes(0, body:length())
  if frame:byte(1) == 0 then
    body:setBytes(script.extended(frame, script.told(log.model, log.variant, log.id, log.experiment)))
  end
end

function envoy_on_request(handle) script.on_request(handle) end
function envoy_on_response(handle) script.on_response(handle) end
return script
