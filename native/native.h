/* What the parts of the module give to it: each adds its types and functions. */
#ifndef ANABRANCH_NATIVE_H
#define ANABRANCH_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

int add_assignment(PyObject *module);
int add_engine(PyObject *module);
int add_express(PyObject *module);
int add_metadata(PyObject *module);
int add_outline(PyObject *module);

/* An inference message in parts: the stretches that describe it, its id, and its raw tensors. */
enum { MOST_RAW = 64, REQUEST_RAW = 0x3A };
typedef struct {
  size_t kept[MOST_RAW + 2][2], raw[MOST_RAW][2];
  size_t kept_count, raw_count, kept_bytes, id_from, id_to;
} Outline;
bool read_outline(Outline *outline, const uint8_t *data, size_t size, uint64_t raw_tag);
void copy_description(const Outline *outline, const uint8_t *data, uint8_t *to);

/* A unit's place in [0, 1), 16 bytes that stand for it, and a body with its MAC in letters: see `assignment.c`. */
enum { MOST_KEY = 64, MOST_SEALED = 128, UNIT_BYTES = 16 };
double place_of(const uint8_t *salt, size_t salt_size, const uint8_t *unit, size_t size);
void digest_of(uint8_t *digest, const uint8_t *key, size_t key_size, const uint8_t *unit, size_t size);
size_t sealed_letters(size_t body_size);
void seal_into(uint8_t *letters, const uint8_t *key, size_t key_size, const uint8_t *body, size_t body_size);

/* Whether text may be sent as a field's value. */
bool is_plain_value(const char *text, size_t size);

#endif
