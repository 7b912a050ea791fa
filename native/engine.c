/* One HTTP/2 connection's protocol state, for gRPC: libnghttp2 driven without a Python object for every frame and field.
 *
 * The idea: most calls are unary and arrive whole. A request whose header fields, message and end come in one read is one
 * event, CALL; a response likewise is one event, ANSWER. Whatever is unusual (a stream, compression, a second message, a
 * body in several reads, a reset) comes as the plain events of its frames, in their order, and Python sees to it. So every
 * rule of gRPC is written once, in Python, and nothing is kept here from one read to the next that Python does not know of.
 *
 * The interface is that of `anabranch.wire.engine`, which says what each method does; `PlainEngine` there does the same on
 * the `ngh2` package alone.
 */
#include <dlfcn.h>
#include <string.h>
#include <sys/random.h>

#include "engine.h"

/* A longer value is an id or a token, which does not come again: it would only push others out of the compressor's table. */
#define MOST_INDEXED 40
#define MOST_FUSED (256 << 10) /* bytes of a message; larger ones do not fit a read */
#define MOST_CACHED 256        /* bytes of a field that is remembered */
#define MOST_KEPT 32           /* responses on the express path that may come in several reads, of one connection */

static nghttp2_functions h2;
static PyObject *EngineError;
uint64_t engine_turns = 0;

int engine_report(Engine *self, PyObject *event) {
  if (event == NULL) return -1;
  int failed = PyList_Append(self->events, event);
  Py_DECREF(event);
  return failed;
}
#define report engine_report

/* Streams. */

static Stream *new_stream(Engine *self, enum stage stage) {
  Stream *stream = PyMem_Calloc(1, sizeof(Stream));
  if (stream == NULL) return NULL;
  stream->stage = stage;
  stream->parts = stream->first_parts;
  stream->parts_room = MOST_PARTS;
  stream->next = self->streams;
  if (self->streams) self->streams->previous = stream;
  self->streams = stream;
  self->streams_count++;
  return stream;
}

static void free_stream(Engine *self, Stream *stream) {
  if (stream->crossing) express_lose(stream);
  self->streams_count--;
  if (stream->is_touched) {
    Stream **link = &self->touched;
    while (*link != stream) link = &(*link)->touched;
    *link = stream->touched;
  }
  if (stream->previous)
    stream->previous->next = stream->next;
  else
    self->streams = stream->next;
  if (stream->next) stream->next->previous = stream->previous;
  self->waiting -= stream->waiting;
  Py_XDECREF(stream->known);
  Py_XDECREF(stream->headers);
  Py_XDECREF(stream->timeout);
  Py_XDECREF(stream->trailers);
  Py_XDECREF(stream->bytes);
  Py_XDECREF(stream->trailers_out);
  for (size_t i = stream->parts_begin; i < stream->parts_end; i++) Py_DECREF(stream->parts[i]);
  if (stream->parts != stream->first_parts) PyMem_Free(stream->parts);
  PyMem_Free(stream);
}

static void touch(Engine *self, Stream *stream) {
  if (!stream->is_touched) {
    stream->is_touched = true;
    stream->touched = self->touched;
    self->touched = stream;
  }
}

/* Report the raw bytes of a stream. */
static int report_bytes(Engine *self, Stream *stream, bool is_end) {
  PyObject *data = stream->bytes;
  stream->bytes = NULL;
  if (data == NULL) {
    if (!is_end) return 0;
    data = PyBytes_FromStringAndSize(NULL, 0);
    if (data == NULL) return -1;
  } else if ((size_t)PyBytes_GET_SIZE(data) != stream->filled && _PyBytes_Resize(&data, (Py_ssize_t)stream->filled) < 0)
    return -1;
  stream->filled = 0;
  return report(self, Py_BuildValue("(iiNO)", DATA, stream->id, data, is_end ? Py_True : Py_False));
}

/* Report what a stream has held back, as the frames it came in. */
static int unfuse(Engine *self, Stream *stream) {
  enum stage stage = stream->stage;
  if (stage == PLAIN) return 0;
  if (stream->crossing && express_hand_over(self, stream) < 0) return -1;
  stream->stage = PLAIN;
  if (stream->headers == NULL) return 0; /* a client's stream that nothing has come for */
  int kind = self->is_server ? REQUEST : RESPONSE;
  if (report(self, Py_BuildValue("(iiNO)", kind, stream->id, stream->headers, Py_False)) < 0) {
    stream->headers = NULL;
    return -1;
  }
  stream->headers = NULL;
  if (stream->bytes != NULL) {
    /* Before the message goes its prefix again. */
    size_t size = (size_t)PyBytes_GET_SIZE(stream->bytes), have = stream->filled - PREFIX;
    PyObject *raw = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(PREFIX + have));
    if (raw == NULL) return -1;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(raw);
    to[0] = 0;
    for (int i = 0; i < 4; i++) to[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    memcpy(to + PREFIX, PyBytes_AS_STRING(stream->bytes), have);
    Py_SETREF(stream->bytes, raw);
    if (report_bytes(self, stream, false) < 0) return -1;
  }
  if (stage == WHOLE) {
    int failed = report(self, Py_BuildValue("(iiN)", TRAILERS, stream->id, stream->trailers));
    stream->trailers = NULL;
    return failed;
  }
  return 0;
}

/* Whether the rest of a response on the express path may come in later reads: that of a few, as their bytes are not acknowledged. */
static bool is_kept(Engine *self, Stream *stream) {
  return stream->crossing && stream->stage == FUSING && self->crossings <= MOST_KEPT;
}

/* At the end of a read: nothing is held back any longer. */
static int report_touched(Engine *self) {
  while (self->touched) {
    Stream *stream = self->touched;
    self->touched = stream->touched;
    stream->is_touched = false;
    if (is_kept(self, stream)) continue;
    if (unfuse(self, stream) < 0 || report_bytes(self, stream, false) < 0) return -1;
  }
  return 0;
}

/* Fields. */

static PyObject *new_pair(nghttp2_vec name, nghttp2_vec value) {
  PyObject *pair = PyTuple_New(2);
  if (pair == NULL) return NULL;
  PyObject *first = PyBytes_FromStringAndSize((const char *)name.base, (Py_ssize_t)name.len);
  PyObject *second = PyBytes_FromStringAndSize((const char *)value.base, (Py_ssize_t)value.len);
  if (first == NULL || second == NULL) {
    Py_XDECREF(first);
    Py_XDECREF(second);
    Py_DECREF(pair);
    return NULL;
  }
  PyTuple_SET_ITEM(pair, 0, first);
  PyTuple_SET_ITEM(pair, 1, second);
  return pair;
}

/* The pair of a field. What is in the table of header compression comes again in the same buffers, which cannot change and,
 * held here, cannot be reused: so they stand for their bytes. */
static PyObject *pair_of(Engine *self, nghttp2_rcbuf *name, nghttp2_rcbuf *value, nghttp2_vec name_bytes, nghttp2_vec value_bytes) {
  size_t slot = (((size_t)name >> 4) * 31 + ((size_t)value >> 4)) % CACHED;
  if (self->cache[slot].name == name && self->cache[slot].value == value) return Py_NewRef(self->cache[slot].pair);
  PyObject *pair = new_pair(name_bytes, value_bytes);
  if (pair == NULL || name_bytes.len + value_bytes.len > MOST_CACHED) return pair;
  h2.rcbuf_incref(name);
  h2.rcbuf_incref(value);
  if (self->cache[slot].pair) {
    h2.rcbuf_decref(self->cache[slot].name);
    h2.rcbuf_decref(self->cache[slot].value);
    Py_DECREF(self->cache[slot].pair);
  }
  self->cache[slot].name = name;
  self->cache[slot].value = value;
  self->cache[slot].pair = Py_NewRef(pair);
  return pair;
}

static bool equals(nghttp2_vec bytes, const char *text, size_t size) { return bytes.len == size && memcmp(bytes.base, text, size) == 0; }
#define EQUALS(bytes, text) equals(bytes, text, sizeof(text) - 1)

static void forget_fields(Engine *self) {
  for (size_t i = 0; i < self->fields_count; i++) Py_DECREF(self->fields[i]);
  self->fields_count = self->fields_bytes = 0;
  self->path = self->timeout = self->status = NULL; /* borrowed from the fields */
  self->is_post = self->is_grpc = self->is_encoded = false;
}

static PyObject *take_fields(Engine *self) {
  PyObject *fields = PyTuple_New((Py_ssize_t)self->fields_count);
  if (fields == NULL) return NULL;
  for (size_t i = 0; i < self->fields_count; i++) PyTuple_SET_ITEM(fields, (Py_ssize_t)i, self->fields[i]);
  self->fields_count = 0;
  return fields;
}

/* From libnghttp2, while it receives. */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
  Engine *self = data;
  forget_fields(self);
  if (self->is_server && frame->headers.cat == NGHTTP2_CAT_REQUEST) {
    Stream *stream = new_stream(self, PLAIN);
    if (stream == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
    stream->id = frame->hd.stream_id;
    h2.session_set_stream_user_data(session, stream->id, stream);
  }
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value, uint8_t flags,
                     void *data) {
  Engine *self = data;
  nghttp2_vec n = h2.rcbuf_get_buf(name), v = h2.rcbuf_get_buf(value);
  (void)session, (void)frame, (void)flags;
  self->fields_bytes += n.len + v.len + 32;
  if (self->fields_bytes > self->most_header_bytes || self->fields_count == MOST_FIELDS) {
    PyErr_SetString(EngineError, "a block of header fields is beyond the limit");
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  }
  PyObject *pair = pair_of(self, name, value, n, v);
  if (pair == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
  self->fields[self->fields_count++] = pair;
  switch (n.len) {
    case 5:
      if (EQUALS(n, ":path")) self->path = PyTuple_GET_ITEM(pair, 1);
      break;
    case 7:
      if (EQUALS(n, ":method"))
        self->is_post = EQUALS(v, "POST");
      else if (EQUALS(n, ":status"))
        self->status = PyTuple_GET_ITEM(pair, 1);
      break;
    case 12:
      if (EQUALS(n, "content-type"))
        self->is_grpc = EQUALS(v, "application/grpc");
      else if (EQUALS(n, "grpc-timeout"))
        self->timeout = PyTuple_GET_ITEM(pair, 1);
      break;
    case 13:
      if (EQUALS(n, "grpc-encoding")) self->is_encoded = true;
      break;
  }
  return 0;
}

static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
                             uint8_t flags, void *data) {
  (void)session, (void)frame, (void)name, (void)value, (void)flags, (void)data;
  return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_request(Engine *self, Stream *stream, bool is_end) {
  PyObject *known = NULL;
  if (!is_end && self->is_post && self->is_grpc && !self->is_encoded && self->path) {
    known = PyDict_GetItemWithError(self->unary, self->path);
    if (known == NULL && PyErr_Occurred()) return -1;
  }
  Py_XINCREF(known);
  PyObject *timeout = Py_XNewRef(self->timeout), *fields = take_fields(self);
  if (fields == NULL || known == NULL) {
    Py_XDECREF(known);
    Py_XDECREF(timeout);
    if (fields == NULL) return -1;
    return report(self, Py_BuildValue("(iiNO)", REQUEST, stream->id, fields, is_end ? Py_True : Py_False));
  }
  stream->stage = FUSING;
  stream->known = known;
  stream->timeout = timeout;
  stream->headers = fields;
  touch(self, stream);
  return 0;
}

static int on_response(Engine *self, Stream *stream, bool is_end) {
  bool is_interim = PyBytes_AS_STRING(self->status)[0] == '1';
  if (is_interim) return 0;
  bool is_plain = !is_end && self->is_grpc && !self->is_encoded && strcmp(PyBytes_AS_STRING(self->status), "200") == 0;
  PyObject *fields = take_fields(self);
  if (fields == NULL) return -1;
  if (stream->stage == FUSING && is_plain && stream->headers == NULL) {
    stream->headers = fields;
    touch(self, stream);
    return 0;
  }
  if (unfuse(self, stream) < 0) {
    Py_DECREF(fields);
    return -1;
  }
  return report(self, Py_BuildValue("(iiNO)", RESPONSE, stream->id, fields, is_end ? Py_True : Py_False));
}

static bool has_message(Stream *stream) {
  return stream->bytes != NULL && stream->filled == (size_t)PyBytes_GET_SIZE(stream->bytes) + PREFIX;
}

static int on_trailers(Engine *self, Stream *stream) {
  PyObject *fields = take_fields(self);
  if (fields == NULL) return -1;
  if (!self->is_server && stream->stage == FUSING && has_message(stream)) {
    stream->stage = WHOLE;
    stream->trailers = fields;
    return 0;
  }
  if (unfuse(self, stream) < 0 || report_bytes(self, stream, false) < 0) {
    Py_DECREF(fields);
    return -1;
  }
  return report(self, Py_BuildValue("(iiN)", TRAILERS, stream->id, fields));
}

static int on_data_end(Engine *self, Stream *stream) {
  if (self->is_server && stream->stage == FUSING && has_message(stream)) {
    size_t size = stream->filled;
    int taken = self->express && stream->known == self->express_known ? express_take(self, stream) : 0;
    if (taken) {
      h2.session_consume_connection(self->session, size);
      return taken < 0 ? -1 : 0;
    }
    PyObject *event = Py_BuildValue("(iiNNNN)", CALL, stream->id, stream->known, stream->headers,
                                    stream->timeout ? stream->timeout : Py_NewRef(Py_None), stream->bytes);
    stream->known = stream->headers = stream->timeout = stream->bytes = NULL;
    stream->filled = 0;
    stream->stage = PLAIN;
    h2.session_consume_connection(self->session, size);
    return report(self, event);
  }
  if (unfuse(self, stream) < 0) return -1;
  return report_bytes(self, stream, true);
}

/* Begin a message from the bytes that are a stream's first. */
static bool begin_message(Engine *self, Stream *stream, const uint8_t **data, size_t *size) {
  const uint8_t *d = *data;
  if (*size < PREFIX || d[0] != 0) return false;
  size_t announced = (size_t)d[1] << 24 | (size_t)d[2] << 16 | (size_t)d[3] << 8 | d[4];
  if (announced > self->most_message_bytes || announced > MOST_FUSED) return false;
  stream->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)announced);
  if (stream->bytes == NULL) {
    PyErr_Clear();
    return false;
  }
  stream->filled = PREFIX;
  *data += PREFIX;
  *size -= PREFIX;
  return true;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size, void *context) {
  Engine *self = context;
  Stream *stream = h2.session_get_stream_user_data(session, stream_id);
  (void)flags;
  if (stream == NULL) {
    h2.session_consume_connection(session, size);
    return 0;
  }
  touch(self, stream);
  if (stream->stage != PLAIN) {
    bool is_first = stream->bytes == NULL;
    bool fits = stream->stage == FUSING && stream->headers != NULL && (!is_first || begin_message(self, stream, &data, &size)) &&
                stream->filled + size <= (size_t)PyBytes_GET_SIZE(stream->bytes) + PREFIX;
    if (fits) {
      memcpy(PyBytes_AS_STRING(stream->bytes) + stream->filled - PREFIX, data, size);
      stream->filled += size;
      return 0;
    }
    if (is_first && stream->bytes != NULL) {
      /* More than one message: give the prefix back. */
      Py_CLEAR(stream->bytes);
      stream->filled = 0;
      data -= PREFIX;
      size += PREFIX;
    }
    if (unfuse(self, stream) < 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
    touch(self, stream);
  }
  if (stream->bytes == NULL) {
    stream->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (stream->bytes == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
    stream->filled = 0;
  } else if (stream->filled + size > (size_t)PyBytes_GET_SIZE(stream->bytes)) {
    size_t room = 2 * (stream->filled + size);
    if (_PyBytes_Resize(&stream->bytes, (Py_ssize_t)room) < 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
  }
  memcpy(PyBytes_AS_STRING(stream->bytes) + stream->filled, data, size);
  stream->filled += size;
  return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
  Engine *self = data;
  int failed = 0;
  bool is_end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
  Stream *stream = frame->hd.stream_id ? h2.session_get_stream_user_data(session, frame->hd.stream_id) : NULL;
  switch (frame->hd.type) {
    case NGHTTP2_FRAME_HEADERS:
      if (stream == NULL) break;
      if (self->is_server && frame->headers.cat == NGHTTP2_CAT_REQUEST)
        failed = on_request(self, stream, is_end);
      else if (!self->is_server && self->status)
        failed = on_response(self, stream, is_end);
      else
        failed = on_trailers(self, stream);
      break;
    case NGHTTP2_FRAME_DATA:
      if (stream != NULL && is_end) failed = on_data_end(self, stream);
      break;
    case NGHTTP2_FRAME_RST_STREAM:
      if (stream == NULL) break;
      failed = unfuse(self, stream) < 0 || report_bytes(self, stream, false) < 0 ||
               (stream->crossing && express_hand_over(self, stream) < 0) ||
               report(self, Py_BuildValue("(iiI)", RESET, stream->id, frame->rst_stream.error_code)) < 0;
      break;
    case NGHTTP2_FRAME_SETTINGS:
      if (frame->hd.flags & NGHTTP2_FLAG_ACK) break;
      failed = report(self, Py_BuildValue("(iI)", SETTINGS, h2.session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)));
      break;
    case NGHTTP2_FRAME_PING:
      if (frame->hd.flags & NGHTTP2_FLAG_ACK) failed = report(self, Py_BuildValue("(iy#)", PONG, frame->ping.opaque_data, (Py_ssize_t)8));
      break;
    case NGHTTP2_FRAME_GOAWAY:
      self->is_closing = true;
      self->close_code = frame->goaway.error_code;
      failed = report(self, Py_BuildValue("(iy#)", GOAWAY, frame->goaway.opaque_data ? (char *)frame->goaway.opaque_data : "",
                                          (Py_ssize_t)frame->goaway.opaque_data_len));
      break;
  }
  return failed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *data) {
  Engine *self = data;
  Stream *stream = h2.session_get_stream_user_data(session, stream_id);
  int failed = 0;
  if (stream == NULL) return 0;
  h2.session_set_stream_user_data(session, stream_id, NULL);
  int taken = stream->stage == WHOLE && error_code == 0 && stream->crossing ? express_answer(stream) : 0;
  if (taken) {
    h2.session_consume_connection(self->session, stream->filled);
    failed = taken < 0;
  } else if (stream->crossing && express_hand_over(self, stream) < 0) {
    failed = -1;
  } else if (stream->stage == WHOLE && error_code == 0) {
    size_t size = stream->filled;
    PyObject *event = Py_BuildValue("(iiNNN)", ANSWER, stream_id, stream->headers, stream->bytes, stream->trailers);
    stream->headers = stream->bytes = stream->trailers = NULL;
    h2.session_consume_connection(session, size);
    failed = report(self, event);
  } else if (!stream->is_answered) {
    failed = unfuse(self, stream) < 0 || report_bytes(self, stream, false) < 0 ||
             report(self, Py_BuildValue("(iiI)", CLOSED, stream_id, error_code)) < 0;
  }
  free_stream(self, stream);
  return failed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* From libnghttp2, while it sends. */

static int fill_fields(PyObject *fields, nghttp2_nv *to) {
  Py_ssize_t count = PyTuple_GET_SIZE(fields);
  if (count > MOST_FIELDS) goto refused;
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *pair = PyTuple_GET_ITEM(fields, i);
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) goto refused;
    PyObject *name = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
    if (!PyBytes_Check(name) || !PyBytes_Check(value)) goto refused;
    to[i].name = (uint8_t *)PyBytes_AS_STRING(name);
    to[i].namelen = (size_t)PyBytes_GET_SIZE(name);
    to[i].value = (uint8_t *)PyBytes_AS_STRING(value);
    to[i].valuelen = (size_t)PyBytes_GET_SIZE(value);
    to[i].flags = to[i].valuelen > MOST_INDEXED ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE;
  }
  return (int)count;
refused:
  PyErr_SetString(PyExc_TypeError, "fields must be pairs of bytes, at most 1024");
  return -1;
}

static bool are_fields(PyObject *fields) {
  nghttp2_nv unused[PyTuple_GET_SIZE(fields) <= MOST_FIELDS ? PyTuple_GET_SIZE(fields) + 1 : 1];
  return fill_fields(fields, unused) >= 0;
}

static uint8_t *make_room(Engine *self, size_t size) {
  size_t room = (size_t)PyBytes_GET_SIZE(self->out);
  if (self->out_size + size > room) {
    if (_PyBytes_Resize(&self->out, (Py_ssize_t)(2 * room + size)) < 0) return NULL;
  }
  uint8_t *to = (uint8_t *)PyBytes_AS_STRING(self->out) + self->out_size;
  self->out_size += size;
  return to;
}

static nghttp2_ssize on_send(nghttp2_session *session, const uint8_t *data, size_t size, int flags, void *context) {
  Engine *self = context;
  (void)session, (void)flags;
  if (self->out_size >= self->out_limit) return NGHTTP2_ERR_WOULDBLOCK;
  uint8_t *to = make_room(self, size);
  if (to == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
  memcpy(to, data, size);
  return (nghttp2_ssize)size;
}

static nghttp2_ssize on_read_body(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t size, uint32_t *flags,
                                  nghttp2_data_source *source, void *data) {
  Stream *stream = source->ptr;
  (void)buffer, (void)data;
  size_t have = stream->waiting;
  if (have == 0 && !stream->is_ended) {
    stream->is_deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (have > size) return (nghttp2_ssize)size;
  if (stream->is_ended) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (stream->trailers_out) {
      nghttp2_nv fields[PyTuple_GET_SIZE(stream->trailers_out) + 1];
      int count = fill_fields(stream->trailers_out, fields);
      if (count < 0 || h2.submit_trailer(session, stream_id, fields, (size_t)count) < 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
      *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
  }
  return (nghttp2_ssize)have;
}

static int on_send_body(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t size, nghttp2_data_source *source,
                        void *data) {
  Engine *self = data;
  Stream *stream = source->ptr;
  (void)session, (void)frame;
  if (self->out_size >= self->out_limit) return NGHTTP2_ERR_WOULDBLOCK;
  uint8_t *to = make_room(self, 9 + size);
  if (to == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
  memcpy(to, head, 9);
  to += 9;
  stream->waiting -= size;
  self->waiting -= size;
  if (stream->prefix_left) {
    size_t some = stream->prefix_left < size ? stream->prefix_left : size;
    memcpy(to, stream->prefix + PREFIX - stream->prefix_left, some);
    stream->prefix_left -= (uint8_t)some;
    to += some;
    size -= some;
  }
  while (size) {
    PyObject *part = stream->parts[stream->parts_begin];
    size_t left = (size_t)PyBytes_GET_SIZE(part) - stream->offset, some = left < size ? left : size;
    memcpy(to, PyBytes_AS_STRING(part) + stream->offset, some);
    to += some;
    size -= some;
    stream->offset += some;
    if (some == left) {
      Py_DECREF(part);
      stream->parts_begin++;
      stream->offset = 0;
    }
  }
  if (stream->parts_begin == stream->parts_end) stream->parts_begin = stream->parts_end = 0;
  return 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
  Engine *self = data;
  (void)session;
  if (frame->hd.type == NGHTTP2_FRAME_GOAWAY) {
    self->is_closing = true;
    self->close_code = frame->goaway.error_code;
  }
  return 0;
}

static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *data) {
  (void)data;
  if (frame->hd.type != NGHTTP2_FRAME_HEADERS || frame->headers.cat == NGHTTP2_CAT_REQUEST) return 0;
  if (error == NGHTTP2_ERR_STREAM_CLOSED || error == NGHTTP2_ERR_STREAM_CLOSING || error == NGHTTP2_ERR_STREAM_SHUT_WR ||
      error == NGHTTP2_ERR_SESSION_CLOSING)
    return 0;
  /* The peer would wait for these fields for ever. */
  h2.submit_rst_stream(session, 0, frame->hd.stream_id, NGHTTP2_INTERNAL_ERROR);
  return 0;
}

static void fill_random(uint8_t *to, size_t size) {
  /* It seeds the tables of streams: without it they are as good, but can be guessed. */
  if (getrandom(to, size, 0) != (ssize_t)size) memset(to, 0, size);
}

/* State. */

static void release(Engine *self) {
  if (self->session) {
    h2.session_del(self->session);
    self->session = NULL;
  }
  while (self->streams) free_stream(self, self->streams);
  forget_fields(self);
  for (size_t i = 0; i < CACHED; i++) {
    if (self->cache[i].pair == NULL) continue;
    h2.rcbuf_decref(self->cache[i].name);
    h2.rcbuf_decref(self->cache[i].value);
    Py_CLEAR(self->cache[i].pair);
  }
  Py_CLEAR(self->out);
}

static PyObject *fail(Engine *self, int error) {
  self->has_failed = true;
  release(self);
  if (!PyErr_Occurred()) PyErr_SetString(EngineError, h2.strerror(error));
  return NULL;
}

static PyObject *refuse(Engine *self, int error) {
  if (h2.is_fatal(error)) return fail(self, error);
  PyErr_SetString(EngineError, h2.strerror(error));
  return NULL;
}

static bool is_free(Engine *self) {
  if (!self->is_busy) return true;
  PyErr_SetString(EngineError, "the connection's HTTP/2 is at work: it takes no call from within");
  return false;
}

static bool is_usable(Engine *self) {
  if (!is_free(self)) return false;
  if (self->is_active && !self->has_failed && !self->is_closed) return true;
  PyErr_SetString(EngineError, "the connection's HTTP/2 has ended, or not begun");
  return false;
}

static int note_end(Engine *self) {
  if (!self->is_closing || self->is_closed || h2.session_want_read(self->session) || h2.session_want_write(self->session)) return 0;
  self->is_closed = true;
  return report(self, Py_BuildValue("(iI)", END, self->close_code));
}

static Stream *find(Engine *self, int32_t stream_id) {
  if (stream_id <= 0) return NULL;
  Stream *stream = h2.session_get_stream_user_data(self->session, stream_id);
  if (stream || self->is_server) return stream;
  /* libnghttp2 opens a client's stream when it sends the fields: until then it is among the first of these. */
  for (stream = self->streams; stream && stream->id != stream_id;) stream = stream->next;
  return stream;
}

/* Methods. */

#define ARGUMENTS(least, most)                                                                     \
  if (count < (least) || count > (most)) {                                                         \
    PyErr_Format(PyExc_TypeError, "%zd arguments given, takes %d to %d", count, (least), (most)); \
    return NULL;                                                                                   \
  }

static int as_int(PyObject *value) {
  long number = PyLong_AsLong(value);
  if (number == -1 && PyErr_Occurred()) return -1;
  if (number < 0 || number > INT32_MAX) {
    PyErr_Format(PyExc_ValueError, "%ld is out of range", number);
    return -1;
  }
  return (int)number;
}

static PyObject *as_fields(PyObject *value) {
  if (PyTuple_CheckExact(value)) return Py_NewRef(value);
  return PySequence_Tuple(value);
}

/* Queue bytes on a stream; takes no reference. */
static int add_part(Engine *self, Stream *stream, PyObject *part) {
  if (!PyBytes_Check(part)) {
    PyErr_SetString(PyExc_TypeError, "a body is bytes");
    return -1;
  }
  size_t size = (size_t)PyBytes_GET_SIZE(part);
  if (size == 0) return 0;
  if (stream->parts_end == stream->parts_room) {
    /* A body that is sent as fast as it comes has never more room than it had parts at once. */
    size_t used = stream->parts_end - stream->parts_begin, room = stream->parts_room;
    PyObject **parts = stream->parts;
    if (2 * used > room) {
      room *= 2;
      parts = PyMem_Malloc(room * sizeof(PyObject *));
      if (parts == NULL) {
        PyErr_NoMemory();
        return -1;
      }
    }
    memmove(parts, stream->parts + stream->parts_begin, used * sizeof(PyObject *));
    if (stream->parts != parts && stream->parts != stream->first_parts) PyMem_Free(stream->parts);
    stream->parts = parts;
    stream->parts_room = room;
    stream->parts_begin = 0;
    stream->parts_end = used;
  }
  stream->parts[stream->parts_end++] = Py_NewRef(part);
  stream->waiting += size;
  self->waiting += size;
  return 0;
}

/* Whether two parts are a message that its prefix can announce. */
static bool fits_prefix(PyObject *message, PyObject *tail) {
  if (!PyBytes_Check(message) || !PyBytes_Check(tail)) {
    PyErr_SetString(PyExc_TypeError, "a message is bytes");
    return false;
  }
  size_t size = (size_t)PyBytes_GET_SIZE(message) + (size_t)PyBytes_GET_SIZE(tail);
  if (size <= UINT32_MAX) return true;
  PyErr_Format(PyExc_ValueError, "a message has at most 4294967295 bytes, not %zu: send it in several", size);
  return false;
}

/* Queue one gRPC message of two parts, which fit. */
static int add_message(Engine *self, Stream *stream, PyObject *message, PyObject *tail) {
  size_t before = stream->waiting;
  if (add_part(self, stream, message) < 0 || add_part(self, stream, tail) < 0) return -1;
  size_t size = stream->waiting - before;
  stream->prefix[0] = 0;
  for (int i = 0; i < 4; i++) stream->prefix[1 + i] = (uint8_t)(size >> (24 - 8 * i));
  stream->prefix_left = PREFIX;
  stream->waiting += PREFIX;
  self->waiting += PREFIX;
  return 0;
}

static int resume(Engine *self, Stream *stream) {
  if (!stream->is_deferred) return 0;
  stream->is_deferred = false;
  return h2.session_resume_data(self->session, stream->id);
}

static PyObject *engine_initiate(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(2, 2)
  nghttp2_settings_entry settings[16];
  size_t given = 0;
  Py_ssize_t position = 0;
  PyObject *key, *value;
  if (!PyDict_Check(args[0]) || PyDict_GET_SIZE(args[0]) > 16) {
    PyErr_SetString(PyExc_TypeError, "settings are a dict, of at most 16");
    return NULL;
  }
  while (given < 16 && PyDict_Next(args[0], &position, &key, &value)) {
    if (!PyLong_Check(key) || !PyLong_Check(value)) {
      PyErr_SetString(PyExc_TypeError, "settings are whole numbers"); /* nothing else: its code could change the dict */
      return NULL;
    }
    int id = as_int(key), number = id < 0 ? -1 : as_int(value);
    if (number < 0) return NULL;
    settings[given++] = (nghttp2_settings_entry){id, (uint32_t)number};
  }
  int window = as_int(args[1]);
  if (window < 0) return NULL;
  if (self->is_active || self->has_failed) {
    PyErr_SetString(EngineError, "the connection has begun already");
    return NULL;
  }
  int result = h2.submit_settings(self->session, 0, settings, given);
  if (result == 0) result = h2.session_set_local_window_size(self->session, 0, 0, window);
  if (result < 0) return refuse(self, result);
  self->is_active = true;
  Py_RETURN_NONE;
}

static PyObject *engine_receive(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(2, 2)
  Py_buffer view;
  Py_ssize_t size = PyLong_AsSsize_t(args[1]);
  if (size == -1 && PyErr_Occurred()) return NULL;
  if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
  if (!is_usable(self)) {
    PyBuffer_Release(&view);
    return NULL;
  }
  if (size < 0 || size > view.len) {
    PyBuffer_Release(&view);
    PyErr_Format(PyExc_ValueError, "%zd bytes received into a buffer of %zd", size, view.len);
    return NULL;
  }
  self->is_busy = true;
  engine_turns++;
  nghttp2_ssize result = h2.session_mem_recv2(self->session, view.buf, (size_t)size);
  bool is_taken = result == size && report_touched(self) == 0 && note_end(self) == 0;
  self->is_busy = false;
  PyBuffer_Release(&view);
  if (!is_taken) return fail(self, (int)(result < 0 ? result : NGHTTP2_ERR_CALLBACK_FAILURE));
  Py_RETURN_NONE;
}

static PyObject *engine_events(Engine *self, PyObject *ignored) {
  (void)ignored;
  if (self->events == NULL || PyList_GET_SIZE(self->events) == 0) return PyTuple_New(0);
  PyObject *fresh = PyList_New(0);
  if (fresh == NULL) return NULL;
  PyObject *events = self->events;
  self->events = fresh;
  return events;
}

static PyObject *engine_data_to_send(Engine *self, PyObject *limit) {
  int most = as_int(limit);
  if (most < 0 || !is_free(self)) return NULL;
  if (self->has_failed) {
    is_usable(self);
    return NULL;
  }
  if (!self->is_active) return PyBytes_FromStringAndSize(NULL, 0);
  size_t room = self->waiting < (size_t)most ? self->waiting : (size_t)most;
  self->out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(room + room / 256 + 4096));
  if (self->out == NULL) return NULL;
  self->out_size = 0;
  self->out_limit = (size_t)most;
  self->is_busy = true;
  engine_turns++;
  int result = h2.session_send(self->session);
  bool is_sent = result == 0 && note_end(self) == 0 && _PyBytes_Resize(&self->out, (Py_ssize_t)self->out_size) == 0;
  self->is_busy = false;
  if (!is_sent) return fail(self, result < 0 ? result : NGHTTP2_ERR_CALLBACK_FAILURE);
  PyObject *out = self->out;
  self->out = NULL;
  return out;
}

/* Begin a response or a request: its fields, and a body that is to come or ends here. Beforehand the caller has made the fields
 * a tuple, and then found the stream: what makes them can be anybody's code, which may end the stream. */
static bool begin(Engine *self, Stream *stream, PyObject *fields, Py_ssize_t fresh, bool has_body, int *result) {
  nghttp2_nv native[PyTuple_GET_SIZE(fields) <= MOST_FIELDS ? PyTuple_GET_SIZE(fields) + 1 : 1];
  int given = fill_fields(fields, native);
  if (given < 0) return false;
  if (fresh >= 0 && fresh < given) native[fresh].flags = NGHTTP2_NV_FLAG_NO_INDEX;
  nghttp2_data_provider2 provider = {{.ptr = stream}, on_read_body};
  nghttp2_data_provider2 *body = has_body ? &provider : NULL;
  *result = self->is_server ? h2.submit_response2(self->session, stream->id, native, (size_t)given, body)
                            : h2.submit_request2(self->session, NULL, native, (size_t)given, body, stream);
  return true;
}

/* `respond` with fields and trailers that are tuples. */
int engine_answer(Engine *self, Stream *stream, PyObject *fields, PyObject *message, PyObject *tail, PyObject *trailers) {
  int result;
  if (!fits_prefix(message, tail)) return -1;
  if (stream == NULL || stream->is_answered || stream->is_ended) {
    PyErr_SetString(EngineError, "the stream takes no response");
    return -1;
  }
  if (!are_fields(trailers) || !begin(self, stream, fields, -1, true, &result)) return -1;
  stream->trailers_out = Py_NewRef(trailers);
  stream->is_answered = stream->is_ended = true;
  if (result < 0) {
    refuse(self, result);
    return -1;
  }
  return add_message(self, stream, message, tail);
}

static PyObject *engine_respond(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(5, 5)
  int stream_id = as_int(args[0]);
  if (stream_id < 0) return NULL;
  PyObject *fields = as_fields(args[1]), *trailers = fields ? as_fields(args[4]) : NULL;
  bool is_done = trailers && is_usable(self) && engine_answer(self, find(self, stream_id), fields, args[2], args[3], trailers) == 0;
  Py_XDECREF(fields);
  Py_XDECREF(trailers);
  if (!is_done) return NULL;
  Py_RETURN_NONE;
}

static PyObject *engine_send_response(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(3, 3)
  int stream_id = as_int(args[0]), is_end = PyObject_IsTrue(args[2]), result;
  if (stream_id < 0 || is_end < 0) return NULL;
  PyObject *fields = as_fields(args[1]);
  if (fields == NULL) return NULL;
  Stream *stream = is_usable(self) ? find(self, stream_id) : NULL;
  bool is_open = stream && !stream->is_answered && !stream->is_ended;
  if (!is_open && !PyErr_Occurred()) PyErr_SetString(EngineError, "the stream takes no response");
  bool has_begun = is_open && begin(self, stream, fields, -1, !is_end, &result);
  Py_DECREF(fields);
  if (!has_begun) return NULL;
  if (result < 0) return refuse(self, result);
  stream->is_ended = is_end;
  Py_RETURN_NONE;
}

static PyObject *engine_send_data(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(2, 2)
  int stream_id = as_int(args[0]);
  if (stream_id < 0 || !is_usable(self)) return NULL;
  Stream *stream = find(self, stream_id);
  if (stream == NULL || stream->is_ended) {
    PyErr_SetString(EngineError, "the stream takes no body");
    return NULL;
  }
  if (add_part(self, stream, args[1]) < 0) return NULL;
  int result = stream->waiting ? resume(self, stream) : 0;
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

/* End a body; takes over the reference to its trailers, a tuple, where it has any. */
static PyObject *end_body(Engine *self, int stream_id, PyObject *trailers) {
  Stream *stream = is_usable(self) ? find(self, stream_id) : NULL;
  bool is_open = stream && !stream->is_ended;
  if (!is_open && !PyErr_Occurred()) PyErr_SetString(EngineError, "the stream has no open body");
  if (!is_open || (trailers && !are_fields(trailers))) {
    Py_XDECREF(trailers);
    return NULL;
  }
  stream->trailers_out = trailers;
  stream->is_ended = true;
  int result = resume(self, stream);
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

static PyObject *engine_send_trailers(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(2, 2)
  int stream_id = as_int(args[0]);
  PyObject *trailers = stream_id < 0 ? NULL : as_fields(args[1]);
  return trailers ? end_body(self, stream_id, trailers) : NULL;
}

static PyObject *engine_end_stream(Engine *self, PyObject *stream_id) {
  int number = as_int(stream_id);
  return number < 0 ? NULL : end_body(self, number, NULL);
}

bool engine_takes_requests(Engine *self) {
  return self->is_active && !self->is_busy && !self->has_failed && !self->is_closed && h2.session_check_request_allowed(self->session);
}

Stream *engine_open(Engine *self, PyObject *fields, Py_ssize_t fresh, PyObject *message, PyObject *tail) {
  if (!is_usable(self) || (message && !fits_prefix(message, tail))) return NULL;
  if (!engine_takes_requests(self)) {
    PyErr_SetString(EngineError, "the connection takes no further requests");
    return NULL;
  }
  Stream *stream = new_stream(self, message ? FUSING : PLAIN);
  if (stream == NULL) {
    PyErr_NoMemory();
    return NULL;
  }
  int result = 0;
  stream->is_ended = message != NULL;
  if ((message && add_message(self, stream, message, tail) < 0) || !begin(self, stream, fields, fresh, true, &result) || result < 0) {
    free_stream(self, stream);
    if (result < 0) refuse(self, result);
    return NULL;
  }
  stream->id = result;
  return stream;
}

static PyObject *send_request(Engine *self, PyObject *headers, PyObject *message, PyObject *tail) {
  PyObject *fields = as_fields(headers);
  Stream *stream = fields ? engine_open(self, fields, -1, message, tail) : NULL;
  Py_XDECREF(fields);
  return stream ? PyLong_FromLong(stream->id) : NULL;
}

static PyObject *engine_request(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(3, 3)
  return send_request(self, args[0], args[1], args[2]);
}

static PyObject *engine_send_request(Engine *self, PyObject *headers) { return send_request(self, headers, NULL, NULL); }

static PyObject *engine_reset_stream(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(2, 2)
  int stream_id = as_int(args[0]), code = as_int(args[1]);
  if (stream_id < 0 || code < 0 || !is_usable(self)) return NULL;
  int result = h2.submit_rst_stream(self->session, 0, stream_id, (uint32_t)code);
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

static PyObject *engine_acknowledge(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(2, 2)
  int stream_id = as_int(args[0]), size = as_int(args[1]);
  if (stream_id < 0 || size < 0 || !is_usable(self)) return NULL;
  int result = h2.session_consume(self->session, stream_id, (size_t)size);
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

static PyObject *engine_ping(Engine *self, PyObject *opaque) {
  if (!is_usable(self)) return NULL;
  if (!PyBytes_Check(opaque) || PyBytes_GET_SIZE(opaque) != 8) {
    PyErr_SetString(PyExc_ValueError, "a ping has 8 bytes");
    return NULL;
  }
  int result = h2.submit_ping(self->session, 0, (const uint8_t *)PyBytes_AS_STRING(opaque));
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

static PyObject *engine_send_goaway(Engine *self, PyObject *code) {
  int number = as_int(code);
  if (number < 0 || !is_usable(self)) return NULL;
  int32_t last = h2.session_get_last_proc_stream_id(self->session);
  int result = h2.submit_goaway(self->session, 0, last, (uint32_t)number, NULL, 0);
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

static PyObject *engine_send_shutdown_notice(Engine *self, PyObject *ignored) {
  (void)ignored;
  if (!is_usable(self)) return NULL;
  int result = h2.submit_shutdown_notice(self->session);
  if (result < 0) return refuse(self, result);
  Py_RETURN_NONE;
}

static PyObject *engine_waiting_on(Engine *self, PyObject *stream_id) {
  int number = as_int(stream_id);
  if (number < 0) return NULL;
  Stream *stream = self->session ? find(self, number) : NULL;
  return PyLong_FromSize_t(stream ? stream->waiting : 0);
}

static PyObject *get_waiting(Engine *self, void *ignored) {
  (void)ignored;
  return PyLong_FromSize_t(self->waiting);
}

static PyObject *get_crossings(Engine *self, void *ignored) {
  (void)ignored;
  return PyLong_FromSsize_t(self->crossings);
}

/* Take part in the express path: a server's connection with the path's table and the method that it is for, a client's with neither. */
static PyObject *engine_join(Engine *self, PyObject *const *args, Py_ssize_t count) {
  ARGUMENTS(1, 4)
  PyObject *known = NULL;
  if (count > 1) {
    bool is_whole = count == 4 && self->is_server && express_is(args[1]) && PyBytes_Check(args[3]);
    known = is_whole ? PyDict_GetItemWithError(self->unary, args[2]) : NULL;
    if (known == NULL) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a server joins with a table, one of its methods and the client's name");
      return NULL;
    }
    Py_XSETREF(self->express, Py_NewRef(args[1]));
    Py_XSETREF(self->identity, Py_NewRef(args[3]));
  }
  Py_XSETREF(self->express_known, Py_XNewRef(known));
  Py_XSETREF(self->owner, Py_NewRef(args[0]));
  Py_RETURN_NONE;
}

static PyObject *get_wants_write(Engine *self, void *ignored) {
  (void)ignored;
  if (self->has_failed || !self->is_active) {
    PyErr_SetString(EngineError, "the connection's HTTP/2 has ended, or not begun");
    return NULL;
  }
  return PyBool_FromLong(h2.session_want_write(self->session));
}

/* Life. */

static int create_session(Engine *self, size_t most_sent_header_bytes) {
  nghttp2_session_callbacks *callbacks = NULL;
  nghttp2_option *option = NULL;
  int result = h2.session_callbacks_new(&callbacks);
  if (result == 0) result = h2.option_new(&option);
  if (result == 0) {
    h2.session_callbacks_set_send_callback2(callbacks, on_send);
    h2.session_callbacks_set_send_data_callback(callbacks, on_send_body);
    h2.session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    h2.session_callbacks_set_on_header_callback2(callbacks, on_header);
    h2.session_callbacks_set_on_invalid_header_callback2(callbacks, on_invalid_header);
    h2.session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_chunk);
    h2.session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    h2.session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    h2.session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
    h2.session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    h2.session_callbacks_set_rand_callback(callbacks, fill_random);
    h2.option_set_no_auto_window_update(option, 1);
    h2.option_set_max_send_header_block_length(option, most_sent_header_bytes);
    result = (self->is_server ? h2.session_server_new2 : h2.session_client_new2)(&self->session, callbacks, self, option);
  }
  h2.option_del(option);
  h2.session_callbacks_del(callbacks);
  if (result < 0) PyErr_SetString(EngineError, h2.strerror(result));
  return result;
}

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"unary", "max_header_bytes", "max_message_bytes", NULL};
  PyObject *unary;
  Py_ssize_t most_header_bytes, most_message_bytes;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$nn", names, &unary, &most_header_bytes, &most_message_bytes)) return NULL;
  if (unary != Py_None && !PyDict_Check(unary)) {
    PyErr_SetString(PyExc_TypeError, "unary is a dict of a server's methods, or None for a client");
    return NULL;
  }
  Engine *self = (Engine *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  self->is_server = unary != Py_None;
  self->unary = Py_NewRef(unary);
  self->most_header_bytes = (size_t)most_header_bytes;
  self->most_message_bytes = (size_t)most_message_bytes;
  self->events = PyList_New(0);
  if (self->events == NULL || create_session(self, 65536) < 0) {
    Py_DECREF(self);
    return NULL;
  }
  return (PyObject *)self;
}

static int engine_traverse(Engine *self, visitproc visit, void *arg) {
  Py_VISIT(self->unary);
  Py_VISIT(self->owner);
  Py_VISIT(self->express);
  Py_VISIT(self->express_known);
  Py_VISIT(self->events);
  for (Stream *stream = self->streams; stream; stream = stream->next) Py_VISIT(stream->known);
  return 0;
}

static int engine_clear(Engine *self) {
  release(self);
  self->has_failed = true;
  Py_CLEAR(self->unary);
  Py_CLEAR(self->owner);
  Py_CLEAR(self->express);
  Py_CLEAR(self->express_known);
  Py_CLEAR(self->identity);
  Py_CLEAR(self->events);
  return 0;
}

static void engine_dealloc(Engine *self) {
  PyObject_GC_UnTrack(self);
  engine_clear(self);
  Py_TYPE(self)->tp_free((PyObject *)self);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))engine_##name, METH_FASTCALL, NULL}
static PyMethodDef engine_methods[] = {
    FAST(initiate),
    FAST(join),
    FAST(receive),
    {"events", (PyCFunction)engine_events, METH_NOARGS, NULL},
    {"data_to_send", (PyCFunction)engine_data_to_send, METH_O, NULL},
    FAST(respond),
    FAST(send_response),
    FAST(send_data),
    FAST(send_trailers),
    FAST(request),
    {"send_request", (PyCFunction)engine_send_request, METH_O, NULL},
    {"end_stream", (PyCFunction)engine_end_stream, METH_O, NULL},
    FAST(reset_stream),
    FAST(acknowledge),
    {"ping", (PyCFunction)engine_ping, METH_O, NULL},
    {"send_goaway", (PyCFunction)engine_send_goaway, METH_O, NULL},
    {"send_shutdown_notice", (PyCFunction)engine_send_shutdown_notice, METH_NOARGS, NULL},
    {"waiting_on", (PyCFunction)engine_waiting_on, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
#undef FAST

static PyGetSetDef engine_attributes[] = {
    {"waiting_bytes", (getter)get_waiting, NULL, NULL, NULL},
    {"crossings", (getter)get_crossings, NULL, NULL, NULL},
    {"wants_write", (getter)get_wants_write, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject EngineType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anabranch._native.NativeEngine",
    .tp_basicsize = sizeof(Engine),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "See anabranch.wire.engine.Engine.",
    .tp_new = engine_new,
    .tp_dealloc = (destructor)engine_dealloc,
    .tp_traverse = (traverseproc)engine_traverse,
    .tp_clear = (inquiry)engine_clear,
    .tp_methods = engine_methods,
    .tp_getset = engine_attributes,
};

/* Find libnghttp2 in the library of the ngh2 package. */
static int find_functions(void) {
  PyObject *core = PyImport_ImportModule("ngh2._core");
  PyObject *file = core ? PyObject_GetAttrString(core, "__file__") : NULL;
  const char *path = file ? PyUnicode_AsUTF8(file) : NULL;
  void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  int failed = path == NULL ? -1 : 0;
  if (path && library == NULL) {
    PyErr_Format(PyExc_ImportError, "ngh2's library cannot be opened: %s", dlerror());
    failed = -1;
  }
#define NGHTTP2_FIND(returns, name, takes)                                                        \
  if (!failed) {                                                                                  \
    *(void **)&h2.name = dlsym(library, "nghttp2_" #name);                                       \
    if (h2.name == NULL) {                                                                        \
      PyErr_SetString(PyExc_ImportError, "ngh2's library does not show nghttp2_" #name);         \
      failed = -1;                                                                                \
    }                                                                                             \
  }
  NGHTTP2_FUNCTIONS(NGHTTP2_FIND)
#undef NGHTTP2_FIND
  Py_XDECREF(file);
  Py_XDECREF(core);
  return failed;
}

int add_engine(PyObject *module) {
  if (find_functions() < 0 || PyType_Ready(&EngineType) < 0) return -1;
  PyObject *package = PyImport_ImportModule("ngh2");
  EngineError = package ? PyObject_GetAttrString(package, "NGH2Error") : NULL;
  Py_XDECREF(package);
  return EngineError ? PyModule_AddObjectRef(module, "NativeEngine", (PyObject *)&EngineType) : -1;
}
