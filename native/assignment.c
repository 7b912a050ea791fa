/* `unit_point`, `unit_digest` and `seal`: the hashes that an assignment needs, without an object for each of them.
 *
 * They say what `anabranch.bandit.assignment.unit_point` and `anabranch.router.assignment_id.AssignmentIds` say, to the bit.
 *
 * Source: RFC 7693, BLAKE2b.
 */
#include <string.h>

#include "native.h"

enum { BLOCK = 128, MOST_DIGEST = 64, ROUNDS = 12, MAC_BYTES = 8 };

static const uint64_t INITIAL[8] = {0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
                                    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179};
static const uint8_t SCHEDULE[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

static uint64_t load(const uint8_t *from) {
  uint64_t word = 0;
  for (int i = 7; i >= 0; i--) word = word << 8 | from[i];
  return word;
}

static uint64_t turn(uint64_t word, int by) { return word >> by | word << (64 - by); }

static inline __attribute__((always_inline)) void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
  v[a] += v[b] + x;
  v[d] = turn(v[d] ^ v[a], 32);
  v[c] += v[d];
  v[b] = turn(v[b] ^ v[c], 24);
  v[a] += v[b] + y;
  v[d] = turn(v[d] ^ v[a], 16);
  v[c] += v[d];
  v[b] = turn(v[b] ^ v[c], 63);
}

static void compress(uint64_t *h, const uint8_t *block, uint64_t counted, bool is_last) {
  uint64_t v[16], m[16];
  for (int i = 0; i < 16; i++) m[i] = load(block + 8 * i);
  for (int i = 0; i < 8; i++) {
    v[i] = h[i];
    v[i + 8] = INITIAL[i];
  }
  v[12] ^= counted;
  if (is_last) v[14] = ~v[14];
#pragma GCC unroll 12 /* for the schedule's numbers to be constants: half the time */
  for (int round = 0; round < ROUNDS; round++) {
    const uint8_t *s = SCHEDULE[round % 10];
    mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
    mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
    mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
    mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
    mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
    mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
    mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
    mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
  }
  for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}

/* The state after a key, which is the first block: a worker has few keys, and half of a hash is theirs. Guarded by the GIL. */
static const uint64_t *keyed(const uint8_t *key, size_t key_size, size_t digest_size) {
  static struct {
    uint8_t key[MOST_KEY];
    size_t key_size, digest_size;
    uint64_t h[8];
  } known[8];
  static unsigned next = 0;
  for (int i = 0; i < 8; i++)
    if (known[i].key_size == key_size && known[i].digest_size == digest_size && memcmp(known[i].key, key, key_size) == 0)
      return known[i].h;
  unsigned slot = next++ % 8;
  uint8_t block[BLOCK] = {0};
  memcpy(block, key, key_size);
  memcpy(known[slot].key, block, MOST_KEY);
  known[slot].key_size = key_size;
  known[slot].digest_size = digest_size;
  memcpy(known[slot].h, INITIAL, sizeof INITIAL);
  known[slot].h[0] ^= 0x01010000 ^ key_size << 8 ^ digest_size;
  compress(known[slot].h, block, BLOCK, false);
  return known[slot].h;
}

/* BLAKE2b, keyed where there is a key; the key and the digest have at most 64 bytes. */
static void blake2b(uint8_t *digest, size_t digest_size, const uint8_t *key, size_t key_size, const uint8_t *data, size_t size) {
  uint64_t h[8], counted = 0;
  uint8_t block[BLOCK] = {0};
  memcpy(h, INITIAL, sizeof h);
  h[0] ^= 0x01010000 ^ key_size << 8 ^ digest_size;
  if (key_size && size) {
    memcpy(h, keyed(key, key_size, digest_size), sizeof h);
    counted = BLOCK;
  } else if (key_size) {
    memcpy(block, key, key_size);
    compress(h, block, BLOCK, true);
  }
  if (size || !key_size) {
    while (size > BLOCK) {
      counted += BLOCK;
      compress(h, data, counted, false);
      data += BLOCK;
      size -= BLOCK;
    }
    memset(block, 0, BLOCK);
    memcpy(block, data, size);
    compress(h, block, counted + size, true);
  }
  for (size_t i = 0; i < digest_size; i++) digest[i] = (uint8_t)(h[i / 8] >> 8 * (i % 8));
}

double place_of(const uint8_t *salt, size_t salt_size, const uint8_t *unit, size_t size) {
  uint8_t digest[8];
  uint64_t place = 0;
  blake2b(digest, sizeof digest, salt, salt_size, unit, size);
  for (int i = 0; i < 8; i++) place = place << 8 | digest[i];
  /* As many bits as a float holds exactly. */
  return (double)(place >> 11) * (1.0 / 9007199254740992.0);
}

void digest_of(uint8_t *digest, const uint8_t *key, size_t key_size, const uint8_t *unit, size_t size) {
  blake2b(digest, UNIT_BYTES, key, key_size, unit, size);
}

size_t sealed_letters(size_t body_size) { return ((body_size + MAC_BYTES) * 8 + 5) / 6; }

/* A body of at most MOST_SEALED bytes and its MAC, as URL-safe base64 without padding. */
void seal_into(uint8_t *letters, const uint8_t *key, size_t key_size, const uint8_t *body, size_t body_size) {
  static const char LETTERS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  uint8_t sealed[MOST_SEALED + MAC_BYTES + 2];
  memcpy(sealed, body, body_size);
  blake2b(sealed + body_size, MAC_BYTES, key, key_size, body, body_size);
  sealed[body_size + MAC_BYTES] = sealed[body_size + MAC_BYTES + 1] = 0;
  for (size_t i = 0, count = sealed_letters(body_size); i < count; i++) {
    size_t byte = i * 6 / 8, shift = 10 - i * 6 % 8;
    letters[i] = (uint8_t)LETTERS[(sealed[byte] << 8 | sealed[byte + 1]) >> shift & 63];
  }
}

static bool are_keyed(PyObject *const *args, Py_ssize_t count, Py_ssize_t expected) {
  if (count == expected && PyBytes_Check(args[0]) && PyBytes_Check(args[1]) && PyBytes_GET_SIZE(args[0]) <= MOST_KEY) return true;
  PyErr_SetString(PyExc_TypeError, "a key of at most 64 bytes and bytes are taken");
  return false;
}

#define BYTES(object) (const uint8_t *)PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)

static PyObject *unit_point(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (!are_keyed(args, count, 2)) return NULL;
  return PyFloat_FromDouble(place_of(BYTES(args[0]), BYTES(args[1])));
}

static PyObject *unit_digest(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (!are_keyed(args, count, 2)) return NULL;
  PyObject *digest = PyBytes_FromStringAndSize(NULL, UNIT_BYTES);
  if (digest) digest_of((uint8_t *)PyBytes_AS_STRING(digest), BYTES(args[0]), BYTES(args[1]));
  return digest;
}

static PyObject *seal(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (!are_keyed(args, count, 2)) return NULL;
  size_t size = (size_t)PyBytes_GET_SIZE(args[1]);
  if (size > MOST_SEALED) {
    PyErr_SetString(PyExc_ValueError, "a body of at most 128 bytes is taken");
    return NULL;
  }
  PyObject *text = PyUnicode_New((Py_ssize_t)sealed_letters(size), 127);
  if (text) seal_into(PyUnicode_1BYTE_DATA(text), BYTES(args[0]), BYTES(args[1]));
  return text;
}

static PyMethodDef functions[] = {
    {"unit_point", (PyCFunction)(void (*)(void))unit_point, METH_FASTCALL, NULL},
    {"unit_digest", (PyCFunction)(void (*)(void))unit_digest, METH_FASTCALL, NULL},
    {"seal", (PyCFunction)(void (*)(void))seal, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int add_assignment(PyObject *module) { return PyModule_AddFunctions(module, functions); }
