/* `anabranch._native`: what is worth compiling, where there is a compiler. Whoever uses it can do without it. */
#include "native.h"

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "anabranch._native", .m_size = -1};

PyMODINIT_FUNC PyInit__native(void) {
  PyObject *made = PyModule_Create(&module);
  if (made && (add_assignment(made) < 0 || add_engine(made) < 0 || add_express(made) < 0 || add_metadata(made) < 0 ||
               add_outline(made) < 0 || PyModule_AddStringConstant(made, "SOURCE_DIGEST", SOURCE_DIGEST) < 0))
    Py_CLEAR(made);
  return made;
}
