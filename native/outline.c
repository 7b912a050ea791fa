/* `split`: an inference message in parts, as `anabranch.proto.outline.split` takes it apart.
 *
 * It answers None to whatever is not quite usual (damage, numbers of more than five bytes, groups, an id beyond ASCII): Python
 * then looks at the message, and says what is wrong with it.
 */
#include <string.h>

#include "native.h"

enum { ID_TAG = 0x1A, LENGTH_DELIMITED = 2 };

static bool read_number(const uint8_t *data, size_t size, size_t *position, uint64_t *number) {
  uint64_t value = 0;
  for (int shift = 0; shift < 35; shift += 7) {
    if (*position >= size) return false;
    uint8_t byte = data[(*position)++];
    value |= (uint64_t)(byte & 0x7F) << shift;
    if (byte < 0x80) {
      *number = value;
      return true;
    }
  }
  return false;
}

static bool is_ascii(const uint8_t *data, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (data[i] >= 0x80) return false;
  return true;
}

bool read_outline(Outline *outline, const uint8_t *data, size_t size, uint64_t raw_tag) {
  size_t from = 0, position = 0;
  outline->kept_count = outline->raw_count = outline->kept_bytes = outline->id_from = outline->id_to = 0;
  while (position < size) {
    size_t begin = position;
    uint64_t tag, length;
    if (!read_number(data, size, &position, &tag) || tag < 8 || tag >> 32) return false;
    if ((tag & 7) == 0) {
      if (!read_number(data, size, &position, &length)) return false;
      continue;
    }
    if ((tag & 7) != LENGTH_DELIMITED || !read_number(data, size, &position, &length) || length > size - position) return false;
    size_t start = position;
    position += length;
    if (tag == raw_tag) {
      if (outline->raw_count == MOST_RAW) return false;
      outline->raw[outline->raw_count][0] = start;
      outline->raw[outline->raw_count++][1] = position;
    } else if (tag == ID_TAG) {
      outline->id_from = start;
      outline->id_to = position;
      if (!is_ascii(data + start, length)) return false;
    } else {
      continue;
    }
    if (from != begin) {
      if (outline->kept_count == MOST_RAW + 1) return false;
      outline->kept[outline->kept_count][0] = from;
      outline->kept[outline->kept_count++][1] = begin;
      outline->kept_bytes += begin - from;
    }
    from = position;
  }
  if (from != size) {
    outline->kept[outline->kept_count][0] = from;
    outline->kept[outline->kept_count++][1] = size;
    outline->kept_bytes += size - from;
  }
  return true;
}

void copy_description(const Outline *outline, const uint8_t *data, uint8_t *to) {
  for (size_t i = 0; i < outline->kept_count; i++) {
    size_t some = outline->kept[i][1] - outline->kept[i][0];
    memcpy(to, data + outline->kept[i][0], some);
    to += some;
  }
}

static PyObject *split(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 2 || !PyBytes_Check(args[0])) {
    PyErr_SetString(PyExc_TypeError, "split takes bytes and a tag");
    return NULL;
  }
  const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(args[0]);
  long raw_tag = PyLong_AsLong(args[1]);
  if (raw_tag == -1 && PyErr_Occurred()) return NULL;
  Outline outline;
  if (!read_outline(&outline, data, (size_t)PyBytes_GET_SIZE(args[0]), (uint64_t)raw_tag)) Py_RETURN_NONE;
  PyObject *description = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)outline.kept_bytes);
  PyObject *id = PyBytes_FromStringAndSize((const char *)data + outline.id_from, (Py_ssize_t)(outline.id_to - outline.id_from));
  PyObject *tensors = PyList_New((Py_ssize_t)outline.raw_count);
  if (description == NULL || id == NULL || tensors == NULL) goto failed;
  copy_description(&outline, data, (uint8_t *)PyBytes_AS_STRING(description));
  for (size_t i = 0; i < outline.raw_count; i++) {
    PyObject *ends = Py_BuildValue("(nn)", (Py_ssize_t)outline.raw[i][0], (Py_ssize_t)outline.raw[i][1]);
    if (ends == NULL) goto failed;
    PyList_SET_ITEM(tensors, (Py_ssize_t)i, ends);
  }
  return Py_BuildValue("(NNN)", description, id, tensors);
failed:
  Py_XDECREF(description);
  Py_XDECREF(id);
  Py_XDECREF(tensors);
  return NULL;
}

static PyMethodDef functions[] = {
    {"split", (PyCFunction)(void (*)(void))split, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int add_outline(PyObject *module) { return PyModule_AddFunctions(module, functions); }
