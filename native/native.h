/* What the parts of the module give to it: each adds its types and functions. */
#ifndef ANABRANCH_NATIVE_H
#define ANABRANCH_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

int add_assignment(PyObject *module);
int add_engine(PyObject *module);
int add_metadata(PyObject *module);
int add_outline(PyObject *module);

#endif
