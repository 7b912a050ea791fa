/* The express path: requests that are like earlier ones go to their variant, and its answers back, without Python.
 *
 * The idea is that of a switch's flow cache. Python takes the first request of a kind all the way, and leaves behind a
 * `Pattern`: what such a request looks like, and what was decided for all of them (who may answer, by which weights, under which
 * names). A later one that matches is a `Crossing`: it is assigned, sent on, answered and recorded here. As soon as anything is
 * unusual (a cancellation, a reset, an error, a field that nobody expects, a tenth of a second without an answer) the crossing is handed over:
 * the HANDOVER event tells Python all that was decided, and Python goes on as if it had been its own from the start. So what is
 * to be done about anything but the plain case is written once, in Python (`anabranch.router.express`).
 *
 * A variant in this process gets a `Run` from Python's dispatcher instead of a stream of another connection; the rest is the same.
 *
 * A pattern lives as long as the route it was made by. What is drawn, hashed, signed and recorded is to the bit what Python would.
 */
#include "pattern.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

enum { MOST_PATTERNS = 256, RECORD_BYTES = 64, ASSIGNMENT_BYTES = 31, NOTED = 6 };
/* Bytes of requests that may be on the path at once: beyond, Python's limits hold. */
#define MOST_HELD (64u << 20)
/* A request with less time than this is Python's from the start: crossings are handed over before their deadlines come near. */
#define LEAST_TIME_S 0.25
#define ASSIGNMENT_ID "x-assignment-id"

static PyObject *status_field, *type_field, *assignment_name, *ok_trailers;

/* A request that runs in this process. */
typedef struct {
  PyObject_HEAD
  Crossing *crossing; /* NULL once it is answered, or Python's */
  PyObject *holder;   /* Python's side of it */
} Run;

typedef struct {
  PyObject_HEAD
  PyObject *wake, *records, *observed;
  Pattern *patterns[MOST_PATTERNS];
  size_t count, held;
  char is_able, is_watched;
  double fresh_until;
  unsigned long long sequence, sequence_end; /* numbers that are taken from here, up to the end */
  Py_ssize_t taken, answered, crossings;
  Crossing *oldest, *newest;
} Express;

struct Crossing {
  Express *express;
  Pattern *pattern;
  Engine *front, *back; /* the client's connection, and the variant's; NULL where it runs here */
  Run *run;
  Stream *front_stream, *back_stream;
  int32_t front_id, back_id;
  PyObject *headers, *timeout, *message;
  uint8_t arm, flags, unit[UNIT_BYTES];
  uint64_t sequence;
  double propensity, arrived;
  size_t id_from, id_to;
  Crossing *older, *newer;
};

static PyTypeObject ExpressType, RunType;

static double seconds(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

bool express_is(PyObject *value) { return Py_IS_TYPE(value, &ExpressType); }

static Pattern *find_pattern(Express *self, PyObject *identity, PyObject *headers, PyObject *message, const Outline *outline) {
  for (size_t i = 0; i < self->count; i++) {
    Pattern *pattern = self->patterns[i];
    if (!is_alike(pattern, identity, headers, message, outline)) continue;
    if (i) {
      self->patterns[i] = self->patterns[i - 1];
      self->patterns[i - 1] = pattern;
    }
    return pattern;
  }
  return NULL;
}

/* Times, as `parse_timeout` and `format_timeout` read and write them. */

/* Seconds; negative where it is no timeout. */
static double read_timeout(PyObject *value) {
  static const char units[] = "HMSmun";
  static const double unit_s[] = {3600.0, 60.0, 1.0, 1e-3, 1e-6, 1e-9};
  Py_ssize_t size = PyBytes_GET_SIZE(value);
  const char *text = PyBytes_AS_STRING(value);
  if (size < 2 || size > 9) return -1.0;
  const char *unit = strchr(units, text[size - 1]);
  long number = 0;
  for (Py_ssize_t i = 0; i < size - 1; i++) {
    if (text[i] < '0' || text[i] > '9') return -1.0;
    number = 10 * number + (text[i] - '0');
  }
  return unit && *unit ? (double)number * unit_s[unit - units] : -1.0;
}

static PyObject *timeout_field(double left_s) {
  char text[16];
  if (left_s >= 100.0) {
    long whole = (long)(left_s < 99999999.0 ? left_s : 99999999.0);
    snprintf(text, sizeof text, "%ldS", whole + ((double)whole < left_s && whole < 99999999));
  } else {
    double step_ms = left_s >= 10.0 ? 100.0 : left_s >= 1.0 ? 10.0 : 1.0, steps = left_s * 1000.0 / step_ms;
    long whole = (long)steps;
    snprintf(text, sizeof text, "%ldm", (whole + ((double)whole < steps)) * (long)step_ms);
  }
  return Py_BuildValue("(yy)", "grpc-timeout", text);
}

/* Crossings. */

static void unlink_crossing(Crossing *crossing) {
  Express *express = crossing->express;
  if (crossing->older)
    crossing->older->newer = crossing->newer;
  else
    express->oldest = crossing->newer;
  if (crossing->newer)
    crossing->newer->older = crossing->older;
  else
    express->newest = crossing->older;
  express->crossings--;
  express->held -= (size_t)PyBytes_GET_SIZE(crossing->message);
  crossing->front->crossings--;
  if (crossing->back) crossing->back->crossings--;
  if (crossing->run) crossing->run->crossing = NULL;
  if (crossing->front_stream) crossing->front_stream->crossing = NULL;
  if (crossing->back_stream) crossing->back_stream->crossing = NULL;
}

static void free_crossing(Crossing *crossing) {
  Py_DECREF(crossing->headers);
  Py_XDECREF(crossing->timeout);
  Py_DECREF(crossing->message);
  Py_DECREF(crossing->pattern);
  Py_DECREF(crossing->front);
  Py_XDECREF(crossing->back);
  if (crossing->run) Py_CLEAR(crossing->run->holder);
  Py_XDECREF(crossing->run);
  Py_DECREF(crossing->express);
  PyMem_Free(crossing);
}

void express_lose(Stream *stream) {
  Crossing *crossing = stream->crossing;
  if (crossing->front_stream == stream)
    crossing->front_stream = NULL;
  else
    crossing->back_stream = NULL;
  stream->crossing = NULL;
}

/* The fields that went on to the variant's server, behind those that all of its requests have. */
static int put_passed(const Pattern *pattern, PyObject *headers, PyObject *to, Py_ssize_t at) {
  for (size_t i = 0; i < pattern->fields_count; i++)
    if (pattern->fields[i].kind == PASSED || pattern->fields[i].kind == UNIT)
      PyTuple_SET_ITEM(to, at++, Py_NewRef(PyTuple_GET_ITEM(headers, (Py_ssize_t)i)));
  return (int)at;
}

/* Take a crossing off the path; what Python needs to go on with it. */
static PyObject *take_off(Crossing *crossing) {
  Pattern *pattern = crossing->pattern;
  PyObject *extra = PyTuple_New((Py_ssize_t)pattern->passed_count);
  if (extra == NULL) return NULL;
  put_passed(pattern, crossing->headers, extra, 0);
  PyObject *holder = crossing->run && crossing->run->holder ? crossing->run->holder : Py_None;
  PyObject *told = Py_BuildValue("(iO(OiOOOiiKy#ddOOiN))", HANDOVER, pattern->hand_over, crossing->front->owner, crossing->front_id,
                                 crossing->headers, crossing->timeout ? crossing->timeout : Py_None, crossing->message, crossing->arm,
                                 crossing->flags, (unsigned long long)crossing->sequence, crossing->unit, (Py_ssize_t)UNIT_BYTES,
                                 crossing->propensity, crossing->arrived, holder, crossing->back ? crossing->back->owner : Py_None,
                                 crossing->back_id, extra);
  unlink_crossing(crossing);
  free_crossing(crossing);
  return told;
}

int express_hand_over(Engine *self, Stream *stream) { return engine_report(self, take_off(stream->crossing)); }

/* Tell a connection that it has something to write, once a turn. */
static int stir(Engine *engine) {
  if (engine->stirred == engine_turns) return 0;
  PyObject *done = PyObject_CallMethod(engine->owner, "stir", NULL);
  if (done == NULL) return -1;
  engine->stirred = engine_turns;
  Py_DECREF(done);
  return 0;
}

static int watch(Express *self) {
  if (self->is_watched) return 0;
  PyObject *done = PyObject_CallNoArgs(self->wake);
  if (done == NULL) return -1;
  self->is_watched = true;
  Py_DECREF(done);
  return 0;
}

static int draw(PyObject *source, double *point) {
  PyObject *drawn = PyObject_CallNoArgs(source);
  if (drawn == NULL) return -1;
  *point = PyFloat_AsDouble(drawn);
  Py_DECREF(drawn);
  return *point == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static uint8_t owner_of(const Pattern *pattern, double point) {
  size_t low = 0, high = pattern->ends_count - 1;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (point < pattern->ends[middle])
      high = middle;
    else
      low = middle + 1;
  }
  return pattern->owners[low];
}

/* Choose the arm of a request; -1 with an exception. */
static int assign(Express *self, Pattern *pattern, PyObject *headers, Crossing *crossing) {
  double point;
  crossing->flags = (uint8_t)pattern->flags;
  crossing->propensity = 1.0;
  if (!pattern->experiment) return 0;
  size_t unit = 0;
  while (unit < pattern->fields_count && pattern->fields[unit].kind != UNIT) unit++;
  if (unit < pattern->fields_count) {
    PyObject *value = PyTuple_GET_ITEM(PyTuple_GET_ITEM(headers, (Py_ssize_t)unit), 1);
    const uint8_t *text = (const uint8_t *)PyBytes_AS_STRING(value);
    size_t size = (size_t)PyBytes_GET_SIZE(value);
    point = place_of((const uint8_t *)PyBytes_AS_STRING(pattern->salt), (size_t)PyBytes_GET_SIZE(pattern->salt), text, size);
    digest_of(crossing->unit, (const uint8_t *)PyBytes_AS_STRING(pattern->key), (size_t)PyBytes_GET_SIZE(pattern->key), text, size);
  } else if (draw(pattern->draw, &point) < 0) {
    return -1;
  }
  crossing->arm = owner_of(pattern, point);
  crossing->propensity = pattern->arms[crossing->arm].weight;
  crossing->sequence = ++self->sequence;
  if (pattern->mirrored > 0.0) {
    if (draw(pattern->draw, &point) < 0) return -1;
    if (point < pattern->mirrored) crossing->flags |= (uint8_t)pattern->sampled;
  }
  return 0;
}

static PyObject *outgoing_fields(const Pattern *pattern, const Arm *arm, PyObject *headers, double timeout_s) {
  Py_ssize_t fixed = PyTuple_GET_SIZE(arm->fixed);
  PyObject *fields = PyTuple_New(fixed + (Py_ssize_t)pattern->passed_count + (timeout_s > 0.0));
  if (fields == NULL) return NULL;
  for (Py_ssize_t i = 0; i < fixed; i++) PyTuple_SET_ITEM(fields, i, Py_NewRef(PyTuple_GET_ITEM(arm->fixed, i)));
  Py_ssize_t at = put_passed(pattern, headers, fields, fixed);
  if (timeout_s > 0.0) {
    PyObject *field = timeout_field(timeout_s);
    if (field == NULL) {
      Py_DECREF(fields);
      return NULL;
    }
    PyTuple_SET_ITEM(fields, at, field);
  }
  return fields;
}

/* Have Python queue a request that runs here. It is called after the read, as it may answer others at once. */
static int submit(Engine *front, const Arm *arm, Crossing *crossing, const Outline *outline, double timeout_s) {
  PyObject *raw = PyList_New((Py_ssize_t)outline->raw_count);
  if (raw == NULL) return -1;
  for (size_t i = 0; i < outline->raw_count; i++) {
    PyObject *ends = Py_BuildValue("(nn)", (Py_ssize_t)outline->raw[i][0], (Py_ssize_t)outline->raw[i][1]);
    if (ends == NULL) {
      Py_DECREF(raw);
      return -1;
    }
    PyList_SET_ITEM(raw, (Py_ssize_t)i, ends);
  }
  PyObject *told = Py_BuildValue("(OONdi)", crossing->run, crossing->message, raw, timeout_s > 0.0 ? crossing->arrived + timeout_s : 0.0, crossing->arm);
  return engine_report(front, told ? Py_BuildValue("(iON)", HANDOVER, arm->target, told) : NULL);
}

/* Nothing is drawn or numbered before it is sure that whoever is drawn can take the request: given to Python after that, it would
 * be drawn anew, and the weights would not be those that are told. */
int express_take(Engine *front, Stream *stream) {
  Express *self = (Express *)front->express;
  Outline outline;
  size_t size = (size_t)PyBytes_GET_SIZE(stream->bytes);
  if (!self->count || !self->is_able || front->waiting > MOST_UNREAD || self->held + size > MOST_HELD || self->sequence == self->sequence_end ||
      !read_outline(&outline, (const uint8_t *)PyBytes_AS_STRING(stream->bytes), size, REQUEST_RAW))
    return 0;
  Pattern *pattern = find_pattern(self, front->identity, stream->headers, stream->bytes, &outline);
  double arrived = seconds(CLOCK_MONOTONIC), timeout_s = stream->timeout ? read_timeout(stream->timeout) : 0.0;
  if (pattern == NULL || arrived > self->fresh_until || arrived > pattern->valid_until || (stream->timeout && timeout_s < LEAST_TIME_S)) return 0;
  Engine *backs[MOST_ARMS];
  for (size_t i = 0; i < pattern->arms_count; i++) {
    Arm *arm = &pattern->arms[i];
    backs[i] = arm->upstream ? pick(arm->upstream) : NULL;
    if (arm->upstream && backs[i] == NULL && (arm->weight > 0.0 || !pattern->experiment)) return 0;
  }
  Crossing *crossing = PyMem_Calloc(1, sizeof(Crossing));
  if (crossing == NULL) {
    PyErr_NoMemory();
    return -1;
  }
  if (assign(self, pattern, stream->headers, crossing) < 0) {
    PyMem_Free(crossing);
    return -1;
  }
  Arm *arm = &pattern->arms[crossing->arm];
  Engine *back = backs[crossing->arm];
  Stream *sent = NULL;
  if (back) {
    PyObject *fields = outgoing_fields(pattern, arm, stream->headers, timeout_s);
    Py_ssize_t fresh = pattern->unit < 0 ? -1 : PyTuple_GET_SIZE(arm->fixed) + pattern->unit;
    sent = fields ? engine_open(back, fields, fresh, stream->bytes, arm->rename) : NULL;
    Py_XDECREF(fields);
  } else {
    crossing->run = PyObject_New(Run, &RunType);
    if (crossing->run) {
      crossing->run->crossing = crossing;
      crossing->run->holder = NULL;
    }
  }
  if (sent == NULL && crossing->run == NULL) {
    /* Memory has run out, or stream numbers have. */
    PyMem_Free(crossing);
    if (PyErr_ExceptionMatches(PyExc_MemoryError)) return -1;
    PyErr_Clear();
    return 0;
  }
  crossing->express = (Express *)Py_NewRef(self);
  crossing->pattern = (Pattern *)Py_NewRef(pattern);
  crossing->front = (Engine *)Py_NewRef(front);
  crossing->back = (Engine *)Py_XNewRef(back);
  crossing->front_stream = stream;
  crossing->back_stream = sent;
  crossing->front_id = stream->id;
  crossing->back_id = sent ? sent->id : 0;
  crossing->headers = stream->headers;
  crossing->timeout = stream->timeout;
  crossing->message = stream->bytes;
  crossing->arrived = arrived;
  crossing->id_from = outline.id_from;
  crossing->id_to = outline.id_to;
  stream->headers = stream->timeout = stream->bytes = NULL;
  Py_CLEAR(stream->known);
  stream->filled = 0;
  stream->stage = PLAIN;
  stream->crossing = crossing;
  crossing->older = self->newest;
  if (self->newest)
    self->newest->newer = crossing;
  else
    self->oldest = crossing;
  self->newest = crossing;
  self->crossings++;
  self->taken++;
  self->held += size;
  front->crossings++;
  if (watch(self) < 0) return -1;
  if (back == NULL) return submit(front, arm, crossing, &outline, timeout_s) < 0 ? -1 : 1;
  sent->crossing = crossing;
  back->crossings++;
  arm->upstream->in_flight++;
  return stir(back) < 0 ? -1 : 1;
}

/* Answers. */

/* Whether a response says OK, and nothing that Python would have to look at. */
static bool is_plain_answer(PyObject *headers, PyObject *trailers) {
  size_t statuses = 0;
  for (int i = 0; i < 2; i++) {
    PyObject *fields = i ? trailers : headers;
    for (Py_ssize_t j = 0; j < PyTuple_GET_SIZE(fields); j++) {
      PyObject *name = PyTuple_GET_ITEM(PyTuple_GET_ITEM(fields, j), 0), *value = PyTuple_GET_ITEM(PyTuple_GET_ITEM(fields, j), 1);
      size_t size = (size_t)PyBytes_GET_SIZE(name);
      if (size == sizeof ASSIGNMENT_ID - 1 && memcmp(PyBytes_AS_STRING(name), ASSIGNMENT_ID, size) == 0) return false;
      if (size == 11 && memcmp(PyBytes_AS_STRING(name), "grpc-status", size) == 0) {
        if (i == 0 || PyBytes_GET_SIZE(value) != 1 || *PyBytes_AS_STRING(value) != '0') return false;
        statuses++;
      }
    }
  }
  return statuses == 1;
}

#define PUT(to, value)                    \
  do {                                    \
    memcpy((to), &(value), sizeof(value)); \
    (to) += sizeof(value);                \
  } while (0)

/* Where the time of an answer went, in seconds, and the rows that shared it. */
typedef struct {
  double latency, queue, compute;
  long rows;
} Times;

/* `store.records.routed_body`. */
static PyObject *record_of(const Crossing *crossing, const Times *times) {
  const Pattern *pattern = crossing->pattern;
  PyObject *record = PyBytes_FromStringAndSize(NULL, RECORD_BYTES);
  if (record == NULL) return NULL;
  uint8_t *to = (uint8_t *)PyBytes_AS_STRING(record), status = 0;
  double at = seconds(CLOCK_REALTIME);
  uint32_t experiment = pattern->experiment, epoch = pattern->epoch;
  float numbers[] = {(float)(1000.0 * times->latency), (float)(1000.0 * times->queue), (float)(1000.0 * times->compute),
                     (float)crossing->propensity};
  uint16_t rows = (uint16_t)(times->rows < 65535 ? times->rows : 65535);
  PUT(to, at);
  PUT(to, crossing->sequence);
  PUT(to, crossing->unit);
  PUT(to, experiment);
  PUT(to, epoch);
  PUT(to, numbers);
  PUT(to, rows);
  PUT(to, crossing->arm);
  PUT(to, crossing->flags);
  PUT(to, status);
  memset(to, 0, 3);
  return record;
}

/* `router.assignment_id.AssignmentIds.give_out`. */
static PyObject *assignment_of(const Crossing *crossing, int32_t class) {
  const Pattern *pattern = crossing->pattern;
  uint8_t body[ASSIGNMENT_BYTES], *to = body, version = 1;
  uint32_t experiment = pattern->experiment, epoch = pattern->epoch, lane = pattern->lane;
  float propensity = (float)crossing->propensity;
  PUT(to, version);
  PUT(to, experiment);
  PUT(to, epoch);
  PUT(to, crossing->arm);
  PUT(to, crossing->flags);
  PUT(to, lane);
  PUT(to, crossing->sequence);
  PUT(to, class);
  PUT(to, propensity);
  PyObject *sealed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sealed_letters(sizeof body));
  if (sealed)
    seal_into((uint8_t *)PyBytes_AS_STRING(sealed), (const uint8_t *)PyBytes_AS_STRING(pattern->key), (size_t)PyBytes_GET_SIZE(pattern->key), body,
              sizeof body);
  return sealed;
}

/* What beside the variant's answer gives it the names that the client knows, as `router.replies.Replies` writes it. An answer from
 * elsewhere has an id of its own, which is overwritten even where the client gave none. */
static PyObject *names_of(const Crossing *crossing, PyObject *sealed) {
  const Pattern *pattern = crossing->pattern;
  PyObject *head = pattern->arms[crossing->arm].head;
  size_t id = crossing->id_to - crossing->id_from, size = (size_t)PyBytes_GET_SIZE(head) + 1 + 5 + id;
  if (sealed) size += (size_t)PyBytes_GET_SIZE(pattern->prefix) + (size_t)PyBytes_GET_SIZE(sealed);
  PyObject *tail = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
  if (tail == NULL) return NULL;
  char *begin = PyBytes_AS_STRING(tail), *to = begin;
  memcpy(to, PyBytes_AS_STRING(head), (size_t)PyBytes_GET_SIZE(head));
  to += PyBytes_GET_SIZE(head);
  if (id || crossing->back) {
    *to++ = 0x1A;
    size_t left = id;
    for (; left >= 0x80; left >>= 7) *to++ = (char)(left | 0x80);
    *to++ = (char)left;
    memcpy(to, PyBytes_AS_STRING(crossing->message) + crossing->id_from, id);
    to += id;
  }
  if (sealed) {
    memcpy(to, PyBytes_AS_STRING(pattern->prefix), (size_t)PyBytes_GET_SIZE(pattern->prefix));
    to += PyBytes_GET_SIZE(pattern->prefix);
    memcpy(to, PyBytes_AS_STRING(sealed), (size_t)PyBytes_GET_SIZE(sealed));
    to += PyBytes_GET_SIZE(sealed);
  }
  _PyBytes_Resize(&tail, to - begin);
  return tail;
}

static PyObject *reply_fields(const Crossing *crossing, PyObject *sealed) {
  const Pattern *pattern = crossing->pattern;
  PyObject *variant = pattern->arms[crossing->arm].variant_field;
  if (sealed == NULL) return PyTuple_Pack(3, status_field, type_field, variant);
  PyObject *assignment = PyTuple_Pack(2, assignment_name, sealed);
  PyObject *fields = assignment ? PyTuple_Pack(5, status_field, type_field, variant, assignment, pattern->experiment_field) : NULL;
  Py_XDECREF(assignment);
  return fields;
}

/* Count an answer, for Prometheus and for what the baseline needs. */
static int note_answer(Express *self, const Crossing *crossing, const Times *times) {
  Pattern *pattern = crossing->pattern;
  double latency_ms = 1000.0 * times->latency;
  double noted[NOTED] = {latency_ms, latency_ms, pattern->level, times->queue, times->compute, (double)times->rows};
  PyObject *row = PyBytes_FromStringAndSize((const char *)noted, sizeof noted);
  PyObject *done = row ? PyObject_CallOneArg(pattern->arms[crossing->arm].note, row) : NULL;
  Py_XDECREF(row);
  if (done == NULL) return -1;
  Py_DECREF(done);
  if (!pattern->experiment || crossing->arm != 0) return 0;
  PyObject *took = PyFloat_FromDouble(times->latency);
  bool is_first = PyList_GET_SIZE(pattern->took) == 0;
  int failed = took == NULL || PyList_Append(pattern->took, took) < 0 || (is_first && PyList_Append(self->observed, (PyObject *)pattern) < 0);
  Py_XDECREF(took);
  return failed ? -1 : 0;
}

/* Record an answer and send it; 1, or -1 with an exception. */
static int answer(Crossing *crossing, PyObject *message, int32_t class, const Times *times) {
  Pattern *pattern = crossing->pattern;
  Express *self = crossing->express;
  PyObject *sealed = NULL, *record = NULL, *names = NULL, *fields = NULL;
  bool is_local = crossing->back == NULL;
  int result = -1;
  if (pattern->experiment && ((sealed = assignment_of(crossing, class)) == NULL || (record = record_of(crossing, times)) == NULL)) goto done;
  if ((names = names_of(crossing, sealed)) == NULL || (fields = reply_fields(crossing, sealed)) == NULL) goto done;
  if (record && PyList_Append(self->records, record) < 0) goto done;
  if (note_answer(self, crossing, times) < 0) goto done;
  if (engine_answer(crossing->front, crossing->front_stream, fields, is_local ? names : message, is_local ? message : names, ok_trailers) < 0) {
    /* The client's connection has failed under it: what is recorded was answered, as far as anybody can know. */
    if (PyErr_ExceptionMatches(PyExc_MemoryError)) goto done;
    PyErr_Clear();
  }
  self->answered++;
  if (!is_local) pattern->arms[crossing->arm].upstream->in_flight--;
  result = stir(crossing->front) < 0 ? -1 : 1;
  unlink_crossing(crossing);
  free_crossing(crossing);
done:
  Py_XDECREF(sealed);
  Py_XDECREF(record);
  Py_XDECREF(names);
  Py_XDECREF(fields);
  return result;
}

/* Whether Python has to see to an answer: its request is to be copied, or its client is gone. */
static bool is_pythons(const Crossing *crossing) {
  return ((crossing->flags & crossing->pattern->sampled) && crossing->arm == 0) || crossing->front_stream == NULL;
}

int express_answer(Stream *stream) {
  Crossing *crossing = stream->crossing;
  if (is_pythons(crossing) || !is_plain_answer(stream->headers, stream->trailers)) return 0;
  /* Without a queue of its own, all of the time is the variant's. */
  double latency = seconds(CLOCK_MONOTONIC) - crossing->arrived;
  return answer(crossing, stream->bytes, -1, &(Times){latency, 0.0, latency, crossing->pattern->rows});
}

/* Runs in this process. */

/* Answer with the outputs, serialized; False where Python has to see to it. */
static PyObject *run_answer(Run *self, PyObject *args) {
  PyObject *outputs;
  int class;
  Times times;
  if (!PyArg_ParseTuple(args, "Siddl", &outputs, &class, &times.queue, &times.compute, &times.rows)) return NULL;
  if (self->crossing == NULL || is_pythons(self->crossing)) Py_RETURN_FALSE;
  times.latency = seconds(CLOCK_MONOTONIC) - self->crossing->arrived;
  Py_INCREF(self);
  int result = answer(self->crossing, outputs, class, &times);
  Py_DECREF(self);
  if (result < 0) return NULL;
  Py_RETURN_TRUE;
}

/* Take it off the path; what HANDOVER tells. */
static PyObject *run_leave(Run *self, PyObject *ignored) {
  (void)ignored;
  if (self->crossing == NULL) {
    PyErr_SetString(PyExc_ValueError, "it is not on the express path any more");
    return NULL;
  }
  return take_off(self->crossing);
}

static void run_dealloc(Run *self) {
  Py_CLEAR(self->holder);
  PyObject_Free(self);
}

static PyMethodDef run_methods[] = {
    {"answer", (PyCFunction)run_answer, METH_VARARGS, NULL},
    {"leave", (PyCFunction)run_leave, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyObject *run_is_left(Run *self, void *ignored) {
  (void)ignored;
  return PyBool_FromLong(self->crossing == NULL);
}

static PyGetSetDef run_attributes[] = {
    {"is_left", (getter)run_is_left, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef run_members[] = {
    {"holder", T_OBJECT, offsetof(Run, holder), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyTypeObject RunType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anabranch._native.Run",
    .tp_basicsize = sizeof(Run),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "See anabranch.router.express.",
    .tp_dealloc = (destructor)run_dealloc,
    .tp_methods = run_methods,
    .tp_members = run_members,
    .tp_getset = run_attributes,
};

/* The table. */

static PyObject *express_add(Express *self, PyObject *pattern) {
  if (!Py_IS_TYPE(pattern, &PatternType)) {
    PyErr_SetString(PyExc_TypeError, "a Pattern is taken");
    return NULL;
  }
  if (self->count == MOST_PATTERNS) Py_RETURN_FALSE;
  self->patterns[self->count++] = (Pattern *)Py_NewRef(pattern);
  Py_RETURN_TRUE;
}

static void drop_patterns(Express *self) {
  while (self->count) {
    Pattern *pattern = self->patterns[--self->count];
    Py_DECREF(pattern);
  }
}

static PyObject *express_forget(Express *self, PyObject *ignored) {
  (void)ignored;
  drop_patterns(self);
  Py_RETURN_NONE;
}

/* What was done since the last time: requests taken and answered, records, and for each baseline what its answers took. */
static PyObject *express_settle(Express *self, PyObject *ignored) {
  (void)ignored;
  Py_ssize_t taken = self->taken, answered = self->answered, count = PyList_GET_SIZE(self->observed);
  PyObject *observed = PyList_New(count), *records = PyList_New(0), *patterns = PyList_New(0);
  if (observed == NULL || records == NULL || patterns == NULL) goto failed;
  for (Py_ssize_t i = 0; i < count; i++) {
    Pattern *pattern = (Pattern *)PyList_GET_ITEM(self->observed, i);
    PyObject *fresh = PyList_New(0), *pair = fresh ? PyTuple_Pack(2, pattern->observe, pattern->took) : NULL;
    if (pair == NULL) {
      Py_XDECREF(fresh);
      goto failed;
    }
    PyList_SET_ITEM(observed, i, pair);
    Py_SETREF(pattern->took, fresh);
  }
  Py_SETREF(self->observed, patterns);
  PyObject *written = self->records;
  self->records = records;
  self->taken = self->answered = 0;
  return Py_BuildValue("(nnNN)", taken, answered, written, observed);
failed:
  Py_XDECREF(observed);
  Py_XDECREF(records);
  Py_XDECREF(patterns);
  return NULL;
}

/* Take crossings off the path: those that arrived before a time, or those of one connection. */
static PyObject *hand_over_some(Express *self, double before, Engine *engine) {
  PyObject *found = PyList_New(0);
  if (found == NULL) return NULL;
  for (Crossing *crossing = self->oldest, *next; crossing; crossing = next) {
    next = crossing->newer;
    if (engine == NULL && crossing->arrived > before) break;
    if (engine != NULL && crossing->front != engine && crossing->back != engine) continue;
    PyObject *told = take_off(crossing);
    if (told == NULL || PyList_Append(found, told) < 0) {
      Py_XDECREF(told);
      Py_DECREF(found);
      return NULL;
    }
    Py_DECREF(told);
  }
  return found;
}

static PyObject *express_overdue(Express *self, PyObject *before) {
  double time = PyFloat_AsDouble(before);
  if (time == -1.0 && PyErr_Occurred()) return NULL;
  return hand_over_some(self, time, NULL);
}

static PyObject *express_leave(Express *self, PyObject *engine) {
  if (!Py_IS_TYPE(engine, &EngineType)) {
    PyErr_SetString(PyExc_TypeError, "an engine is taken");
    return NULL;
  }
  return hand_over_some(self, 0.0, (Engine *)engine);
}

static PyObject *express_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"wake", NULL};
  PyObject *wake;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &wake)) return NULL;
  Express *self = (Express *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  self->wake = Py_NewRef(wake);
  self->records = PyList_New(0);
  self->observed = PyList_New(0);
  if (self->records && self->observed) return (PyObject *)self;
  Py_DECREF(self);
  return NULL;
}

static int express_traverse(Express *self, visitproc visit, void *arg) {
  Py_VISIT(self->wake);
  Py_VISIT(self->observed);
  for (size_t i = 0; i < self->count; i++) Py_VISIT(self->patterns[i]);
  return 0;
}

static int express_clear(Express *self) {
  Py_CLEAR(self->wake);
  Py_CLEAR(self->records);
  Py_CLEAR(self->observed);
  drop_patterns(self);
  return 0;
}

static void express_dealloc(Express *self) {
  PyObject_GC_UnTrack(self);
  express_clear(self);
  Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef express_methods[] = {
    {"add", (PyCFunction)express_add, METH_O, NULL},
    {"forget", (PyCFunction)express_forget, METH_NOARGS, NULL},
    {"settle", (PyCFunction)express_settle, METH_NOARGS, NULL},
    {"overdue", (PyCFunction)express_overdue, METH_O, NULL},
    {"leave", (PyCFunction)express_leave, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef express_members[] = {
    {"is_able", T_BOOL, offsetof(Express, is_able), 0, NULL},
    {"is_watched", T_BOOL, offsetof(Express, is_watched), 0, NULL},
    {"fresh_until", T_DOUBLE, offsetof(Express, fresh_until), 0, NULL},
    {"sequence", T_ULONGLONG, offsetof(Express, sequence), 0, NULL},
    {"sequence_end", T_ULONGLONG, offsetof(Express, sequence_end), 0, NULL},
    {"crossings", T_PYSSIZET, offsetof(Express, crossings), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject ExpressType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anabranch._native.Express",
    .tp_basicsize = sizeof(Express),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "See anabranch.router.express.",
    .tp_new = express_new,
    .tp_dealloc = (destructor)express_dealloc,
    .tp_traverse = (traverseproc)express_traverse,
    .tp_clear = (inquiry)express_clear,
    .tp_methods = express_methods,
    .tp_members = express_members,
};

int add_express(PyObject *module) {
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
  (void)module; /* records are little-endian */
  return 0;
#else
  status_field = Py_BuildValue("(yy)", ":status", "200");
  type_field = Py_BuildValue("(yy)", "content-type", "application/grpc");
  assignment_name = PyBytes_FromString(ASSIGNMENT_ID);
  ok_trailers = Py_BuildValue("((yy))", "grpc-status", "0");
  if (!status_field || !type_field || !assignment_name || !ok_trailers) return -1;
  if (PyType_Ready(&ExpressType) < 0 || PyType_Ready(&RunType) < 0 || add_patterns(module) < 0) return -1;
  return PyModule_AddObjectRef(module, "Express", (PyObject *)&ExpressType);
#endif
}
