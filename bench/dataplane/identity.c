/* The backend of the bench: one thread, libnghttp2 and epoll, an Open Inference Protocol server of an identity model.
 *
 *     identity PORT METADATA_FILE NAME
 *
 * ModelInfer answers with the request's own tensors, so that a client can tell that its bytes came back; the
 * readiness calls and grpc.health.v1 say yes; ModelMetadata answers with the bytes of METADATA_FILE; anything else is
 * UNIMPLEMENTED. NAME comes back as the header x-invoked-variant, so that a split can be counted. It is as little work as a gRPC server can do, and so both the limit that the tables show and a
 * backend that costs a proxy's measurement next to nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { GRPC_PREFIX = 5, MAX_EVENTS = 256, READ_BYTES = 1 << 18, WINDOW_BYTES = 1 << 24 };

typedef struct Stream {
  struct Stream *previous, *next;
  char path[96];
  uint8_t *body;
  size_t length, capacity, sent;
} Stream;

typedef struct {
  int socket;
  nghttp2_session *session;
  Stream *streams;
  uint8_t *out;
  size_t out_length, out_sent, out_capacity;
  int waits_to_write;
} Connection;

static int poller;
static uint8_t *metadata;
static size_t metadata_length;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void *resized(void *memory, size_t size) {
  void *found = realloc(memory, size);
  if (!found) fail("realloc");
  return found;
}

static void append(Stream *stream, const uint8_t *data, size_t length) {
  if (stream->length + length > stream->capacity) {
    stream->capacity = 2 * (stream->length + length);
    stream->body = resized(stream->body, stream->capacity);
  }
  memcpy(stream->body + stream->length, data, length);
  stream->length += length;
}

/* A protobuf varint; answers the bytes it takes, 0 if the text ends within it. */
static size_t varint(const uint8_t *at, const uint8_t *end, uint64_t *value) {
  *value = 0;
  for (size_t i = 0; i < 10 && at + i < end; i++) {
    *value |= (uint64_t)(at[i] & 0x7f) << (7 * i);
    if (!(at[i] & 0x80)) return i + 1;
  }
  return 0;
}

/* Turn a ModelInferRequest into its ModelInferResponse in place: the name, version, id and tensors have the same
 * numbers in both (1, 2, 3, 5) and stay; the raw contents move from 7 to 6; parameters and requested outputs go.
 * Answers 0 if the message is none. */
static int answer_with_inputs(Stream *stream) {
  uint8_t *from = stream->body + GRPC_PREFIX, *to = from, *end = stream->body + stream->length;
  while (from < end) {
    uint64_t size;
    int field = *from >> 3;
    if (*from >= 0x80 || (*from & 7) != 2) return 0;
    size_t taken = varint(from + 1, end, &size);
    if (!taken || size > (uint64_t)(end - from) - 1 - taken) return 0;
    size_t whole = 1 + taken + size;
    if (field != 4 && field != 6) {
      if (to != from) memmove(to, from, whole);
      if (field == 7) *to = 6 << 3 | 2;
      to += whole;
    }
    from += whole;
  }
  stream->length = (size_t)(to - stream->body);
  return 1;
}

static void set_reply(Stream *stream, const uint8_t *message, size_t length) {
  stream->length = 0;
  append(stream, (const uint8_t[GRPC_PREFIX]){0}, GRPC_PREFIX);
  append(stream, message, length);
}

#define FIELD(name, value)                                                                       \
  {                                                                                              \
    (uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1,                  \
        NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                             \
  }
static nghttp2_nv headers[] = {FIELD(":status", "200"), FIELD("content-type", "application/grpc"),
                               FIELD("x-invoked-variant", "")};
static const nghttp2_nv TRAILERS[] = {FIELD("grpc-status", "0")};
static const nghttp2_nv REFUSAL[] = {FIELD(":status", "200"), FIELD("content-type", "application/grpc"),
                                     FIELD("grpc-status", "12"), FIELD("grpc-message", "not in this backend")};
static const nghttp2_nv BAD_MESSAGE[] = {FIELD(":status", "200"), FIELD("content-type", "application/grpc"),
                                         FIELD("grpc-status", "3"), FIELD("grpc-message", "not a ModelInferRequest")};

static ssize_t read_reply(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room, uint32_t *flags,
                                nghttp2_data_source *source, void *user) {
  (void)user;
  Stream *stream = source->ptr;
  size_t left = stream->length - stream->sent, size = left < room ? left : room;
  memcpy(buffer, stream->body + stream->sent, size);
  stream->sent += size;
  if (stream->sent == stream->length) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    nghttp2_submit_trailer(session, id, TRAILERS, 1);
  }
  return (ssize_t)size;
}

static void answer(nghttp2_session *session, int32_t id, Stream *stream) {
  static const uint8_t yes[] = {0x08, 0x01}; /* Field 1 is 1: live, ready, SERVING. */
  const char *method = strrchr(stream->path, '/');
  method = method ? method + 1 : "";
  if (!strcmp(method, "ModelInfer")) {
    if (stream->length < GRPC_PREFIX || !answer_with_inputs(stream)) {
      nghttp2_submit_response(session, id, BAD_MESSAGE, 4, NULL);
      return;
    }
  } else if (!strcmp(method, "ModelMetadata")) {
    set_reply(stream, metadata, metadata_length);
  } else if (!strcmp(method, "ServerLive") || !strcmp(method, "ServerReady") || !strcmp(method, "ModelReady") ||
             !strcmp(method, "Check")) {
    set_reply(stream, yes, sizeof yes);
  } else {
    nghttp2_submit_response(session, id, REFUSAL, 4, NULL);
    return;
  }
  uint32_t size = htonl((uint32_t)(stream->length - GRPC_PREFIX));
  stream->body[0] = 0;
  memcpy(stream->body + 1, &size, sizeof size);
  nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = read_reply};
  nghttp2_submit_response(session, id, headers, 3, &provider);
}

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  Connection *connection = user;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  Stream *stream = calloc(1, sizeof *stream);
  if (!stream) fail("calloc");
  stream->next = connection->streams;
  if (stream->next) stream->next->previous = stream;
  connection->streams = stream;
  nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
  (void)flags, (void)user;
  Stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (stream && name_length == 5 && !memcmp(name, ":path", 5) && value_length < sizeof stream->path)
    memcpy(stream->path, value, value_length);
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length,
                   void *user) {
  (void)flags, (void)user;
  Stream *stream = nghttp2_session_get_stream_user_data(session, id);
  if (stream) append(stream, data, length);
  return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  (void)user;
  Stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (stream && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) answer(session, frame->hd.stream_id, stream);
  return 0;
}

static void free_stream(Connection *connection, Stream *stream) {
  if (stream->previous) stream->previous->next = stream->next;
  else connection->streams = stream->next;
  if (stream->next) stream->next->previous = stream->previous;
  free(stream->body);
  free(stream);
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
  (void)error;
  Stream *stream = nghttp2_session_get_stream_user_data(session, id);
  if (stream) free_stream(user, stream);
  return 0;
}

static void close_connection(Connection *connection) {
  nghttp2_session_del(connection->session);
  while (connection->streams) free_stream(connection, connection->streams);
  close(connection->socket);
  free(connection->out);
  free(connection);
}

/* Write all that is due; answers 0 if the connection is to be closed. */
static int flush(Connection *connection) {
  for (;;) {
    const uint8_t *data;
    ssize_t size;
    while (connection->out_length < READ_BYTES && (size = nghttp2_session_mem_send(connection->session, &data)) > 0) {
      if (connection->out_length + (size_t)size > connection->out_capacity) {
        connection->out_capacity = 2 * (connection->out_length + (size_t)size);
        connection->out = resized(connection->out, connection->out_capacity);
      }
      memcpy(connection->out + connection->out_length, data, (size_t)size);
      connection->out_length += (size_t)size;
    }
    if (connection->out_length == 0) break;
    ssize_t written = write(connection->socket, connection->out + connection->out_sent,
                            connection->out_length - connection->out_sent);
    if (written < 0 && errno != EAGAIN) return 0;
    if (written > 0) connection->out_sent += (size_t)written;
    if (connection->out_sent < connection->out_length) break;
    connection->out_sent = connection->out_length = 0;
  }
  int waits = connection->out_length > 0;
  if (waits != connection->waits_to_write) {
    struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->socket, &event);
    connection->waits_to_write = waits;
  }
  return waits || nghttp2_session_want_read(connection->session) || nghttp2_session_want_write(connection->session);
}

static void accept_all(int listener, nghttp2_session_callbacks *callbacks) {
  for (int socket; (socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
    Connection *connection = calloc(1, sizeof *connection);
    if (!connection) fail("calloc");
    connection->socket = socket;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (nghttp2_session_server_new(&connection->session, callbacks, connection)) fail("nghttp2_session_server_new");
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1024},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES}};
    nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event);
    if (!flush(connection)) close_connection(connection);
  }
}

static void serve(Connection *connection, uint32_t events) {
  static uint8_t buffer[READ_BYTES];
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    ssize_t size = read(connection->socket, buffer, sizeof buffer);
    if (size == 0 || (size < 0 && errno != EAGAIN) ||
        (size > 0 && nghttp2_session_mem_recv(connection->session, buffer, (size_t)size) < 0)) {
      close_connection(connection);
      return;
    }
  }
  if (!flush(connection)) close_connection(connection);
}

static int listen_on(int port) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) fail("listen");
  return listener;
}

static void read_metadata(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path);
  metadata = resized(NULL, 1 << 16);
  metadata_length = fread(metadata, 1, 1 << 16, file);
  fclose(file);
}

static nghttp2_session_callbacks *callbacks_of_server(void) {
  nghttp2_session_callbacks *callbacks;
  if (nghttp2_session_callbacks_new(&callbacks)) fail("nghttp2_session_callbacks_new");
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
  return callbacks;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s PORT METADATA_FILE NAME\n", argv[0]);
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  read_metadata(argv[2]);
  headers[2].value = (uint8_t *)argv[3];
  headers[2].valuelen = strlen(argv[3]);
  int listener = listen_on(atoi(argv[1]));
  poller = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN}, events[MAX_EVENTS];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  nghttp2_session_callbacks *callbacks = callbacks_of_server();
  for (;;) {
    int count = epoll_wait(poller, events, MAX_EVENTS, -1);
    for (int i = 0; i < count; i++) {
      if (events[i].data.ptr) serve(events[i].data.ptr, events[i].events);
      else accept_all(listener, callbacks);
    }
  }
}
