/* Patterns: what requests of one kind look like, and what was decided for all of them. Upstreams: where they go. See `express.c`. */
#include "pattern.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* Upstreams. */

Engine *pick(Upstream *upstream) {
  Engine *best = NULL;
  if (!upstream->is_calm || upstream->in_flight >= upstream->most) return NULL;
  for (size_t i = 0; i < upstream->count; i++) {
    Engine *engine = upstream->engines[i].engine;
    if (engine->streams_count < upstream->engines[i].most_streams && engine->waiting < MOST_UNREAD &&
        (best == NULL || engine->streams_count < best->streams_count) && engine_takes_requests(engine))
      best = engine;
  }
  return best;
}

static PyObject *upstream_open(Upstream *self, PyObject *args) {
  PyObject *engine;
  Py_ssize_t most;
  if (!PyArg_ParseTuple(args, "O!n", &EngineType, &engine, &most)) return NULL;
  for (size_t i = 0; i < self->count; i++)
    if (self->engines[i].engine == (Engine *)engine) {
      self->engines[i].most_streams = (size_t)most;
      Py_RETURN_NONE;
    }
  /* Further ones are Python's alone. */
  if (self->count < MOST_ENGINES) {
    self->engines[self->count].engine = (Engine *)Py_NewRef(engine);
    self->engines[self->count++].most_streams = (size_t)most;
  }
  Py_RETURN_NONE;
}

static PyObject *upstream_close(Upstream *self, PyObject *engine) {
  for (size_t i = 0; i < self->count; i++)
    if (self->engines[i].engine == (Engine *)engine) {
      self->engines[i] = self->engines[--self->count];
      Py_DECREF(engine);
      break;
    }
  Py_RETURN_NONE;
}

static PyObject *upstream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"most", NULL};
  Py_ssize_t most;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n", names, &most)) return NULL;
  Upstream *self = (Upstream *)type->tp_alloc(type, 0);
  if (self) self->most = most;
  return (PyObject *)self;
}

static int upstream_traverse(Upstream *self, visitproc visit, void *arg) {
  for (size_t i = 0; i < self->count; i++) Py_VISIT(self->engines[i].engine);
  return 0;
}

static int upstream_clear(Upstream *self) {
  while (self->count) Py_CLEAR(self->engines[--self->count].engine);
  return 0;
}

static void upstream_dealloc(Upstream *self) {
  PyObject_GC_UnTrack(self);
  upstream_clear(self);
  Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef upstream_methods[] = {
    {"open", (PyCFunction)upstream_open, METH_VARARGS, NULL},
    {"close", (PyCFunction)upstream_close, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef upstream_members[] = {
    {"in_flight", T_PYSSIZET, offsetof(Upstream, in_flight), 0, NULL},
    {"is_calm", T_BOOL, offsetof(Upstream, is_calm), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
PyTypeObject UpstreamType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anabranch._native.Upstream",
    .tp_basicsize = sizeof(Upstream),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "See anabranch.router.express.",
    .tp_new = upstream_new,
    .tp_dealloc = (destructor)upstream_dealloc,
    .tp_traverse = (traverseproc)upstream_traverse,
    .tp_clear = (inquiry)upstream_clear,
    .tp_methods = upstream_methods,
    .tp_members = upstream_members,
};

/* Patterns. */

static int pattern_traverse(Pattern *self, visitproc visit, void *arg) {
  Py_VISIT(self->hand_over);
  Py_VISIT(self->draw);
  Py_VISIT(self->observe);
  for (size_t i = 0; i < self->arms_count; i++) {
    Py_VISIT(self->arms[i].target);
    Py_VISIT(self->arms[i].note);
  }
  return 0;
}

static int pattern_clear(Pattern *self) {
  for (size_t i = 0; i < self->fields_count; i++) {
    Py_DECREF(self->fields[i].name);
    Py_DECREF(self->fields[i].value);
  }
  for (size_t i = 0; i < self->arms_count; i++) {
    Arm *arm = &self->arms[i];
    PyObject *held[] = {arm->target, arm->fixed, arm->rename, arm->variant_field, arm->head, arm->note};
    for (size_t j = 0; j < sizeof held / sizeof *held; j++) Py_DECREF(held[j]);
  }
  self->fields_count = self->arms_count = 0;
  Py_CLEAR(self->identity);
  Py_CLEAR(self->hand_over);
  Py_CLEAR(self->description);
  Py_CLEAR(self->draw);
  Py_CLEAR(self->observe);
  Py_CLEAR(self->key);
  Py_CLEAR(self->salt);
  Py_CLEAR(self->prefix);
  Py_CLEAR(self->experiment_field);
  Py_CLEAR(self->took);
  return 0;
}

static void pattern_dealloc(Pattern *self) {
  PyObject_GC_UnTrack(self);
  pattern_clear(self);
  PyMem_Free(self->fields);
  PyMem_Free(self->sizes);
  PyMem_Free(self->arms);
  PyMem_Free(self->ends);
  PyMem_Free(self->owners);
  Py_TYPE(self)->tp_free((PyObject *)self);
}

#define ROOM(pointer, count) (((pointer) = PyMem_Calloc((size_t)(count) + 1, sizeof *(pointer))) != NULL)

static bool read_fields(Pattern *self, PyObject *fields) {
  if (!ROOM(self->fields, PyTuple_GET_SIZE(fields))) return false;
  self->unit = -1;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields); i++) {
    Field *field = &self->fields[i];
    int kind;
    if (!PyArg_ParseTuple(PyTuple_GET_ITEM(fields, i), "SSi", &field->name, &field->value, &kind)) return false;
    Py_INCREF(field->name);
    Py_INCREF(field->value);
    field->kind = (enum kind)kind;
    self->fields_count++;
    if (kind == UNIT) self->unit = (Py_ssize_t)self->passed_count;
    self->passed_count += kind == PASSED || kind == UNIT;
  }
  return true;
}

static bool read_arms(Pattern *self, PyObject *arms) {
  if (!ROOM(self->arms, PyTuple_GET_SIZE(arms))) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arms); i++) {
    Arm *arm = &self->arms[i];
    if (!PyArg_ParseTuple(PyTuple_GET_ITEM(arms, i), "OO!SO!SOd", &arm->target, &PyTuple_Type, &arm->fixed, &arm->rename,
                          &PyTuple_Type, &arm->variant_field, &arm->head, &arm->note, &arm->weight))
      return false;
    PyObject *held[] = {arm->target, arm->fixed, arm->rename, arm->variant_field, arm->head, arm->note};
    for (size_t j = 0; j < sizeof held / sizeof *held; j++) Py_INCREF(held[j]);
    if (Py_IS_TYPE(arm->target, &UpstreamType)) arm->upstream = (Upstream *)arm->target;
    self->arms_count++;
  }
  return true;
}

static bool read_layout(Pattern *self, PyObject *sizes, PyObject *ends, PyObject *owners) {
  Py_ssize_t stretches = PyTuple_GET_SIZE(ends);
  if (!ROOM(self->sizes, PyTuple_GET_SIZE(sizes)) || !ROOM(self->ends, stretches) || !ROOM(self->owners, stretches)) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(sizes); i++) self->sizes[self->sizes_count++] = PyLong_AsSize_t(PyTuple_GET_ITEM(sizes, i));
  for (Py_ssize_t i = 0; i < stretches && i < PyTuple_GET_SIZE(owners); i++) {
    self->ends[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(ends, i));
    long owner = PyLong_AsLong(PyTuple_GET_ITEM(owners, i));
    if (owner < 0 || (size_t)owner >= self->arms_count) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a stretch is owned by no arm");
      return false;
    }
    self->owners[self->ends_count++] = (uint8_t)owner;
  }
  return !PyErr_Occurred();
}

static PyObject *pattern_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"hand_over", "description", "sizes", "fields",     "arms",  "ends",   "owners",   "draw",   "observe",          "experiment", "epoch", "lane",
                          "key",       "salt",        "flags", "sampled",    "mirrored", "rows", "level", "prefix", "experiment_field", "valid_until", "identity", NULL};
  PyObject *sizes, *fields, *arms, *ends, *owners;
  Pattern *self = (Pattern *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  bool is_read = PyArg_ParseTupleAndKeywords(
      args, kwargs, "$OSO!O!O!O!O!OOIIISSIIdiiSO!dO", names, &self->hand_over, &self->description, &PyTuple_Type, &sizes, &PyTuple_Type, &fields,
      &PyTuple_Type, &arms, &PyTuple_Type, &ends, &PyTuple_Type, &owners, &self->draw, &self->observe, &self->experiment, &self->epoch, &self->lane,
      &self->key, &self->salt, &self->flags, &self->sampled, &self->mirrored, &self->rows, &self->level, &self->prefix, &PyTuple_Type,
      &self->experiment_field, &self->valid_until, &self->identity);
  PyObject *held[] = {self->hand_over, self->description, self->draw, self->observe, self->key, self->salt, self->prefix, self->experiment_field,
                      self->identity};
  if (!is_read) {
    self->hand_over = self->description = self->draw = self->observe = self->key = self->salt = self->prefix = self->experiment_field = self->identity = NULL;
    Py_DECREF(self);
    return NULL;
  }
  for (size_t i = 0; i < sizeof held / sizeof *held; i++) Py_INCREF(held[i]);
  if ((self->identity != Py_None && !PyBytes_Check(self->identity)) || PyTuple_GET_SIZE(arms) < 1 || PyTuple_GET_SIZE(arms) > MOST_ARMS || PyTuple_GET_SIZE(fields) > MOST_FIELDS ||
      PyBytes_GET_SIZE(self->key) > MOST_KEY || PyBytes_GET_SIZE(self->salt) > MOST_KEY)
    PyErr_SetString(PyExc_ValueError, "a pattern has 1 to 256 arms, at most 1024 fields, keys of at most 64 bytes, and an identity of bytes or None");
  else if (read_fields(self, fields) && read_arms(self, arms) && read_layout(self, sizes, ends, owners) && (self->took = PyList_New(0)))
    return (PyObject *)self;
  if (!PyErr_Occurred()) PyErr_NoMemory();
  Py_DECREF(self);
  return NULL;
}

static bool same_bytes(PyObject *first, PyObject *second) {
  return first == second || (PyBytes_GET_SIZE(first) == PyBytes_GET_SIZE(second) &&
                             memcmp(PyBytes_AS_STRING(first), PyBytes_AS_STRING(second), (size_t)PyBytes_GET_SIZE(first)) == 0);
}

bool is_alike(const Pattern *pattern, PyObject *identity, PyObject *headers, PyObject *message, const Outline *outline) {
  if ((size_t)PyTuple_GET_SIZE(headers) != pattern->fields_count || outline->raw_count != pattern->sizes_count ||
      outline->kept_bytes != (size_t)PyBytes_GET_SIZE(pattern->description))
    return false;
  if (pattern->identity != Py_None && !same_bytes(pattern->identity, identity)) return false;
  for (size_t i = 0; i < outline->raw_count; i++)
    if (outline->raw[i][1] - outline->raw[i][0] != pattern->sizes[i]) return false;
  const char *data = PyBytes_AS_STRING(message), *expected = PyBytes_AS_STRING(pattern->description);
  for (size_t i = 0; i < outline->kept_count; i++) {
    size_t some = outline->kept[i][1] - outline->kept[i][0];
    if (memcmp(expected, data + outline->kept[i][0], some)) return false;
    expected += some;
  }
  for (size_t i = 0; i < pattern->fields_count; i++) {
    PyObject *pair = PyTuple_GET_ITEM(headers, (Py_ssize_t)i), *value = PyTuple_GET_ITEM(pair, 1);
    const Field *field = &pattern->fields[i];
    if (!same_bytes(PyTuple_GET_ITEM(pair, 0), field->name)) return false;
    if (field->kind == REQUIRED && !same_bytes(value, field->value)) return false;
    if ((field->kind == PASSED || field->kind == UNIT) &&
        (!is_plain_value(PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value)) || (field->kind == UNIT && PyBytes_GET_SIZE(value) == 0)))
      return false;
  }
  return true;
}

PyTypeObject PatternType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anabranch._native.Pattern",
    .tp_basicsize = sizeof(Pattern),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "See anabranch.router.express.",
    .tp_new = pattern_new,
    .tp_dealloc = (destructor)pattern_dealloc,
    .tp_traverse = (traverseproc)pattern_traverse,
    .tp_clear = (inquiry)pattern_clear,
};

int add_patterns(PyObject *module) {
  if (PyType_Ready(&UpstreamType) < 0 || PyType_Ready(&PatternType) < 0) return -1;
  if (PyModule_AddObjectRef(module, "Upstream", (PyObject *)&UpstreamType) < 0) return -1;
  return PyModule_AddObjectRef(module, "Pattern", (PyObject *)&PatternType);
}
