// The wire's contract by Node's own gRPC client: no line of its HTTP/2 or gRPC is shared with grpcio.
//
//     node checks.js ADDRESS CA_FILE TLS_ADDRESS
//
// Prints one JSON object: a check's name and "ok", or what went wrong. The server is wire_server.py.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");

const [address, caFile, tlsAddress] = process.argv.slice(2);
const bytes = (value) => value;
const open = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.use_local_subchannel_pool": 1,
};

function connect(options = {}) {
  return new grpc.Client(address, grpc.credentials.createInsecure(), { ...open, ...options });
}

function deadline(seconds) {
  return new Date(Date.now() + 1000 * seconds);
}

function unary(client, name, message = Buffer.alloc(0), metadata = new grpc.Metadata(), options = {}) {
  return new Promise((resolve) => {
    const seen = {};
    const call = client.makeUnaryRequest(
      `/test.Wire/${name}`, bytes, bytes, message, metadata, { deadline: deadline(20), ...options },
      (error, reply) => Object.assign(seen, { error, reply }),
    );
    call.on("metadata", (initial) => { seen.initial = initial; });
    // The last event of a call, after its callback.
    call.on("status", (status) => setImmediate(() => resolve({ ...seen, status })));
    if (options.then) options.then(call);
  });
}

function stream(client, name, options = {}) {
  return client.makeBidiStreamRequest(
    `/test.Wire/${name}`, bytes, bytes, new grpc.Metadata(), { deadline: deadline(20), ...options },
  );
}

async function stats(client) {
  return JSON.parse((await unary(client, "Stats")).reply.toString());
}

async function until(condition) {
  const giveUp = Date.now() + 10000;
  while (!(await condition())) assert(Date.now() < giveUp, "not within 10 s");
}

const checks = {
  async "messages of every size come back"(client) {
    for (const size of [0, 1, 16384, 65536, 1 << 20, 16 << 20]) {
      const sent = Buffer.alloc(size, size % 251);
      const { error, reply } = await unary(client, "Echo", sent);
      assert.ifError(error);
      assert(sent.equals(reply), `${size} bytes`);
    }
  },

  async "a thousand calls at once are answered each with its own"(client) {
    const sent = [...Array(1000).keys()].map((number) => Buffer.from(String(number)));
    const replies = await Promise.all(sent.map((message) => unary(client, "Echo", message)));
    replies.forEach(({ reply }, number) => assert.strictEqual(reply.toString(), String(number)));
  },

  async "metadata go both ways, binary too"(client) {
    const metadata = new grpc.Metadata();
    metadata.add("x-user-id", "u1");
    metadata.add("x-user-id", "u2");
    metadata.add("x-key-bin", Buffer.from([0, 1, 254]));
    const { error, reply, initial, status } = await unary(client, "Metadata", Buffer.alloc(0), metadata);
    assert.ifError(error);
    const seen = JSON.parse(reply.toString());
    assert.deepStrictEqual(
      seen.metadata.filter(([name]) => name === "x-key-bin"), [["x-key-bin", "0001fe"]],
    );
    const users = seen.metadata.filter(([name]) => name === "x-user-id").map(([, value]) => value);
    assert.deepStrictEqual(users.join(",").split(/, ?/), ["u1", "u2"]);
    assert.deepStrictEqual(initial.get("x-invoked-variant"), ["onnx-fp32"]);
    assert.deepStrictEqual([...initial.get("x-raw-bin")[0]], [0, 255, 16]);
    assert.deepStrictEqual(status.metadata.get("x-assignment-id"), ["a1"]);
  },

  async "an error arrives with its code, its text in any script and its metadata"(client) {
    const text = "Größe 12 % zu groß: 推論 ✗";
    for (const code of [2, 3, 5, 8, 13, 14]) {
      const { error } = await unary(client, "Fail", Buffer.from(JSON.stringify({ status: code, message: text })));
      assert.strictEqual(error.code, code);
      assert.strictEqual(error.details, text);
      assert.deepStrictEqual(error.metadata.get("x-reason"), ["asked"]);
    }
  },

  async "an unknown method is unimplemented"(client) {
    assert.strictEqual((await unary(client, "Nothing")).error.code, grpc.status.UNIMPLEMENTED);
  },

  async "a deadline ends the call here and in the handler"(client) {
    const before = (await stats(client)).handler_cancelled;
    const { error } = await unary(client, "Hang", Buffer.alloc(0), new grpc.Metadata(), { deadline: deadline(0.1) });
    assert.strictEqual(error.code, grpc.status.DEADLINE_EXCEEDED);
    await until(async () => (await stats(client)).handler_cancelled === before + 1);
  },

  async "a cancellation reaches the handler"(client) {
    const before = await stats(client);
    let cancel;
    const pending = unary(client, "Hang", Buffer.alloc(0), new grpc.Metadata(), { then: (call) => { cancel = call; } });
    await until(async () => (await stats(client)).calls > before.calls + 1);
    cancel.cancel();
    assert.strictEqual((await pending).error.code, grpc.status.CANCELLED);
    await until(async () => (await stats(client)).handler_cancelled === before.handler_cancelled + 1);
  },

  async "gzip requests are read"() {
    const client = connect({ "grpc.default_compression_algorithm": 2 });
    const sent = Buffer.alloc(1 << 20, "abc");
    const { error, reply } = await unary(client, "Echo", sent);
    assert.ifError(error);
    assert(sent.equals(reply));
    client.close();
  },

  async "a message over the limit is refused"(client) {
    const { error } = await unary(client, "Echo", Buffer.alloc(21 << 20));
    assert.strictEqual(error.code, grpc.status.RESOURCE_EXHAUSTED);
  },

  async "a stream keeps its order and ends with its half close"(client) {
    const call = stream(client, "Bidi");
    const received = [];
    for (let number = 0; number < 500; number += 1) call.write(Buffer.from(String(number)));
    call.end();
    const status = new Promise((resolve) => call.on("status", resolve));
    for await (const message of call) received.push(Number(message.toString()));
    assert.deepStrictEqual(received, [...Array(500).keys()]);
    assert.strictEqual((await status).metadata.get("x-end")[0], "half-close");
  },

  async "a stream flows in both directions under flow control"(client) {
    const call = stream(client, "Bidi");
    (async () => {
      for (let number = 0; number < 64; number += 1) {
        if (!call.write(Buffer.alloc(1 << 20, number))) await new Promise((resolve) => call.once("drain", resolve));
      }
      call.end();
    })();
    let count = 0;
    for await (const message of call) {
      assert.strictEqual(message.length, 1 << 20);
      assert.strictEqual(message[0], count);
      count += 1;
    }
    assert.strictEqual(count, 64);
  },

  async "a reader that rests gets all of a flood"(client) {
    const call = stream(client, "Flood");
    call.write(Buffer.from(JSON.stringify([300, 100000])));
    let count = 0;
    for await (const message of call) {
      assert.strictEqual(message.length, 100000);
      count += 1;
      if (count % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.strictEqual(count, 300);
  },

  async "cancelling a stream reaches its handler"(client) {
    const before = (await stats(client)).handler_cancelled;
    const call = stream(client, "Stuck");
    call.on("error", () => {});
    call.write(Buffer.from("x"));
    await new Promise((resolve) => call.on("metadata", resolve));
    call.cancel();
    await until(async () => (await stats(client)).handler_cancelled === before + 1);
  },

  async "a stream may be refused at once"(client) {
    const call = stream(client, "Early");
    call.write(Buffer.alloc(1 << 20));
    const error = await new Promise((resolve) => { call.on("error", resolve); call.resume(); });
    assert.strictEqual(error.code, grpc.status.FAILED_PRECONDITION);
    assert.strictEqual(error.details, "not now");
  },

  async "health is checked and watched"(client) {
    const status = (message) => message[1];
    const checked = await new Promise((resolve, reject) => client.makeUnaryRequest(
      "/grpc.health.v1.Health/Check", bytes, bytes, Buffer.alloc(0), new grpc.Metadata(), {},
      (error, reply) => (error ? reject(error) : resolve(reply)),
    ));
    assert.strictEqual(status(checked), 1);
    const name = Buffer.from("node");
    const watch = client.makeServerStreamRequest(
      "/grpc.health.v1.Health/Watch", bytes, bytes, Buffer.concat([Buffer.from([10, name.length]), name]),
    );
    watch.on("error", () => {});
    const seen = [];
    for await (const message of watch) {
      seen.push(status(message));
      if (seen.length === 1) await unary(client, "SetHealth", Buffer.from('["node", "NOT_SERVING"]'));
      if (seen.length === 2) break;
    }
    assert.deepStrictEqual(seen, [3, 2]);
  },

  async "TLS is agreed on with ALPN"() {
    const client = new grpc.Client(tlsAddress, grpc.credentials.createSsl(fs.readFileSync(caFile)), open);
    const sent = Buffer.alloc(3 << 20, 7);
    const { error, reply } = await unary(client, "Echo", sent);
    assert.ifError(error);
    assert(sent.equals(reply));
    client.close();
  },

  async "keepalive pings are answered"() {
    const client = connect({ "grpc.keepalive_time_ms": 1100, "grpc.keepalive_timeout_ms": 1000 });
    const { error, reply } = await unary(client, "Later", Buffer.from("5000"));
    assert.ifError(error);
    assert.strictEqual(reply.toString(), "late");
    client.close();
  },
};

async function main() {
  const results = {};
  for (const [name, check] of Object.entries(checks)) {
    const client = connect();
    try {
      await check(client);
      results[name] = "ok";
    } catch (error) {
      results[name] = String(error.stack || error);
    }
    client.close();
  }
  console.log(JSON.stringify(results));
  process.exit(0);
}

main();
