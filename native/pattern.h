/* What requests of one kind have in common, and where they go. */
#ifndef ANABRANCH_PATTERN_H
#define ANABRANCH_PATTERN_H

#include "engine.h"

enum { MOST_ARMS = 256, MOST_ENGINES = 64 };
/* Bytes that a peer may leave unread while the express path goes on: beyond, Python's limits hold. */
#define MOST_UNREAD (1u << 20)

/* What becomes of a field of a request. */
enum kind {
  DROPPED,  /* it is for this server */
  PASSED,   /* it goes on to the variant's server */
  UNIT,     /* so does this, which names the unit */
  TIMEOUT,  /* grpc-timeout */
  REQUIRED, /* it must have the value that the pattern's first request had, and is for this server */
};

/* Where a variant's requests go. */
typedef struct {
  PyObject_HEAD
  Py_ssize_t in_flight, most; /* `in_flight` is Python's too */
  char is_calm;               /* nothing is wrong with the server, as far as is known */
  size_t count;
  struct {
    Engine *engine;
    size_t most_streams;
  } engines[MOST_ENGINES];
} Upstream;

/* What answers an arm's requests: a server elsewhere, or a function of Python's that queues a `Run`. */
typedef struct {
  PyObject *target;
  Upstream *upstream; /* the target, where it is one */
  PyObject *fixed, *rename, *variant_field, *head, *note;
  double weight;
} Arm;

typedef struct {
  PyObject *name, *value;
  enum kind kind;
} Field;

typedef struct {
  PyObject_HEAD
  PyObject *identity; /* whose requests it is for, by the connection's certificate; None: anybody's */
  PyObject *hand_over, *description, *draw, *observe, *key, *salt, *prefix, *experiment_field, *took;
  size_t fields_count, sizes_count, arms_count, ends_count, passed_count;
  Py_ssize_t unit; /* its place among the fields that go on; -1 where there is none */
  Field *fields;
  size_t *sizes;
  Arm *arms;
  double *ends;
  uint8_t *owners;
  unsigned int experiment, epoch, lane, flags, sampled;
  int rows, level;
  double mirrored, valid_until;
} Pattern;

extern PyTypeObject PatternType, UpstreamType;

/* The connection with the fewest open streams that has room for one more; NULL where there is none, or something is wrong. */
Engine *pick(Upstream *upstream);

/* Whether a request is of the kind. */
bool is_alike(const Pattern *pattern, PyObject *identity, PyObject *headers, PyObject *message, const Outline *outline);

int add_patterns(PyObject *module);

#endif
