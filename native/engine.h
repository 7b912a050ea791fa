/* What the engine and the express path know of each other. */
#ifndef ANABRANCH_ENGINE_H
#define ANABRANCH_ENGINE_H

#include <stdbool.h>

#include "native.h"
#include "nghttp2_abi.h"

/* The kinds of events; `anabranch.wire.engine.Event` says what each carries. */
enum { CALL, ANSWER, REQUEST, RESPONSE, DATA, TRAILERS, RESET, CLOSED, SETTINGS, PONG, GOAWAY, END, HANDOVER };

#define PREFIX 5
#define MOST_FIELDS 1024 /* of one block; a further one ends the connection */
#define CACHED 64        /* fields remembered as Python pairs */
#define MOST_PARTS 3     /* of a message that is sent */

/* How a stream's frames are reported. */
enum stage {
  PLAIN,  /* each as it comes; bytes of one read together */
  FUSING, /* held back until the end of the read */
  WHOLE   /* a response that has its trailers, and waits for the stream's end */
};

typedef struct Crossing Crossing;

typedef struct Stream {
  int32_t id;
  uint8_t stage;
  bool is_touched;  /* has something to report at the end of this read */
  bool is_answered; /* its response is queued, and Python has forgotten it */
  bool is_ended;    /* no more is given for sending */
  bool is_deferred; /* libnghttp2 waits for more to send */
  uint8_t prefix_left;
  uint8_t prefix[PREFIX];
  struct Stream *previous, *next, *touched;
  Crossing *crossing; /* the request on the express path that it is a side of */
  /* Received. */
  PyObject *known, *headers, *timeout, *trailers;
  PyObject *bytes; /* a message while fusing, else raw bytes */
  size_t filled;   /* of `bytes`; while fusing with those of the prefix before it */
  /* To be sent. */
  PyObject **parts;
  size_t parts_begin, parts_end, parts_room, offset, waiting;
  PyObject *first_parts[MOST_PARTS];
  PyObject *trailers_out;
} Stream;

typedef struct Engine {
  PyObject_HEAD
  nghttp2_session *session;
  bool is_server, has_failed, is_active, is_closing, is_closed;
  bool is_busy; /* in libnghttp2: a finalizer, or a key's comparison, that comes back here is refused */
  uint32_t close_code;
  size_t most_header_bytes, most_message_bytes;
  PyObject *unary, *events;
  Stream *streams, *touched;
  size_t streams_count, waiting;
  /* The express path, where the connection has a part in it. */
  PyObject *owner; /* the connection, which is told when something is to be written */
  PyObject *express, *express_known;
  PyObject *identity; /* the client's name by its certificate; empty where it has none */
  Py_ssize_t crossings;
  uint64_t stirred; /* the turn in which `owner` was told last */
  /* The block of fields that is being received. */
  PyObject *fields[MOST_FIELDS];
  size_t fields_count, fields_bytes;
  PyObject *path, *timeout, *status;
  bool is_post, is_grpc, is_encoded;
  /* What is being sent. */
  PyObject *out;
  size_t out_size, out_limit;
  struct {
    nghttp2_rcbuf *name, *value;
    PyObject *pair;
  } cache[CACHED];
} Engine;

extern PyTypeObject EngineType;
extern uint64_t engine_turns; /* reads and writes of all engines */

/* For the express path; what fails leaves a Python exception, and NULL or -1. */
bool engine_takes_requests(Engine *self);
Stream *engine_open(Engine *self, PyObject *fields, Py_ssize_t fresh, PyObject *message, PyObject *tail); /* field `fresh` does not come again */
int engine_answer(Engine *self, Stream *stream, PyObject *fields, PyObject *message, PyObject *tail, PyObject *trailers);
int engine_report(Engine *self, PyObject *event);

/* From the express path. */
bool express_is(PyObject *value);
int express_take(Engine *front, Stream *stream);   /* 1: the request is on it, and the stream has given its parts away */
int express_answer(Stream *stream); /* 1: its response is on its way; 0: Python has to see to it */
int express_hand_over(Engine *self, Stream *stream); /* reports HANDOVER: from here on it is Python's */
void express_lose(Stream *stream);                 /* one side is gone */

#endif
