/* `decode_metadata`, `encode_metadata`: between metadata and header fields, as `anabranch.wire.grpc_framing` does it.
 *
 * Both answer None to whatever is not plain text under a plain name: Python then looks at all of it, and says what is wrong.
 */
#include <string.h>

#include "native.h"

/* Names as they are in bytes and in compact ASCII strings alike. */
typedef struct {
  const char *text;
  Py_ssize_t size;
} Name;

static bool begins(Name name, const char *with) {
  Py_ssize_t size = (Py_ssize_t)strlen(with);
  return name.size >= size && !memcmp(name.text, with, (size_t)size);
}

static bool ends(Name name, const char *with) {
  Py_ssize_t size = (Py_ssize_t)strlen(with);
  return name.size >= size && !memcmp(name.text + name.size - size, with, (size_t)size);
}

/* The fields of HTTP/2 and gRPC itself, which are nobody's metadata. */
static bool is_own(Name name) {
  static const char *const own[] = {"te", "content-type", "connection", "transfer-encoding", "content-length"};
  if (begins(name, "grpc-")) return true;
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (name.size == (Py_ssize_t)strlen(own[i]) && begins(name, own[i])) return true;
  return false;
}

static PyObject *decode_metadata(PyObject *module, PyObject *headers) {
  (void)module;
  PyObject *fields = PySequence_Fast(headers, "header fields are a sequence of pairs");
  if (fields == NULL) return NULL;
  PyObject *metadata = PyList_New(0);
  bool is_plain = metadata != NULL;
  for (Py_ssize_t i = 0; is_plain && i < PySequence_Fast_GET_SIZE(fields); i++) {
    PyObject *field = PySequence_Fast_GET_ITEM(fields, i);
    is_plain = PyTuple_Check(field) && PyTuple_GET_SIZE(field) == 2 && PyBytes_Check(PyTuple_GET_ITEM(field, 0)) &&
               PyBytes_Check(PyTuple_GET_ITEM(field, 1));
    if (!is_plain) break;
    PyObject *value = PyTuple_GET_ITEM(field, 1);
    Name name = {PyBytes_AS_STRING(PyTuple_GET_ITEM(field, 0)), PyBytes_GET_SIZE(PyTuple_GET_ITEM(field, 0))};
    if (begins(name, ":") || is_own(name)) continue;
    is_plain = !ends(name, "-bin");
    if (!is_plain) break;
    PyObject *pair = Py_BuildValue("(NN)", PyUnicode_DecodeLatin1(name.text, name.size, NULL),
                                   PyUnicode_DecodeLatin1(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), NULL));
    if (pair == NULL || PyList_Append(metadata, pair) < 0) Py_CLEAR(metadata);
    Py_XDECREF(pair);
    if (metadata == NULL) break;
  }
  Py_DECREF(fields);
  if (is_plain || metadata == NULL) return metadata;
  Py_DECREF(metadata);
  Py_RETURN_NONE;
}

static bool is_name(Name name) {
  if (!name.size || is_own(name) || ends(name, "-bin")) return false;
  for (Py_ssize_t i = 0; i < name.size; i++) {
    char c = name.text[i];
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) return false;
  }
  return true;
}

bool is_plain_value(const char *text, size_t size) {
  if (size && (text[0] == ' ' || text[size - 1] == ' ')) return false;
  for (size_t i = 0; i < size; i++)
    if (text[i] < ' ' || text[i] > '~') return false;
  return true;
}

static bool is_ascii(PyObject *text) { return PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text); }

static Name of(PyObject *text) { return (Name){(const char *)PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text)}; }

static PyObject *encode_metadata(PyObject *module, PyObject *metadata) {
  (void)module;
  PyObject *pairs = PySequence_Fast(metadata, "metadata is a sequence of pairs");
  if (pairs == NULL) return NULL;
  Py_ssize_t count = PySequence_Fast_GET_SIZE(pairs);
  PyObject *fields = PyList_New(count);
  bool is_plain = fields != NULL;
  for (Py_ssize_t i = 0; is_plain && i < count; i++) {
    PyObject *pair = PySequence_Fast_GET_ITEM(pairs, i);
    is_plain = PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 && is_ascii(PyTuple_GET_ITEM(pair, 0)) &&
               is_ascii(PyTuple_GET_ITEM(pair, 1));
    if (!is_plain) break;
    Name name = of(PyTuple_GET_ITEM(pair, 0)), value = of(PyTuple_GET_ITEM(pair, 1));
    is_plain = is_name(name) && is_plain_value(value.text, (size_t)value.size);
    if (!is_plain) break;
    PyObject *field = Py_BuildValue("(NN)", PyBytes_FromStringAndSize(name.text, name.size),
                                    PyBytes_FromStringAndSize(value.text, value.size));
    if (field == NULL) {
      Py_CLEAR(fields);
      break;
    }
    PyList_SET_ITEM(fields, i, field);
  }
  Py_DECREF(pairs);
  if (is_plain || fields == NULL) return fields;
  Py_DECREF(fields);
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"decode_metadata", decode_metadata, METH_O, NULL},
    {"encode_metadata", encode_metadata, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int add_metadata(PyObject *module) { return PyModule_AddFunctions(module, functions); }
