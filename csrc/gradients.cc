// Lookup of a plan's gradients: dense ones in the layout of their parameters, and sparse ones of
// rows.
#include <algorithm>

#include "plan.h"

namespace asyncopt::python {
namespace {

PyObject* grad_name() {
  static PyObject* const name = PyUnicode_InternFromString("grad");
  return name;
}

// The C function of an attribute of `type`; null if a subclass overrides it.
const PyGetSetDef* getter(PyObject* type, PyObject* name) {
  const auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(type, name));
  if (!found) throw py::error_already_set();
  if (!Py_IS_TYPE(found.ptr(), &PyGetSetDescr_Type)) return nullptr;
  return reinterpret_cast<PyGetSetDescrObject*>(found.ptr())->d_getset;
}

// Throws ValueError if an index is not a row of the parameter.
void check_rows(std::span<const std::int64_t> rows, std::int64_t count, std::size_t param) {
  std::int64_t low = 0, high = -1;
  for (const std::int64_t row : rows) {
    low = std::min(low, row);
    high = std::max(high, row);
  }
  if (low < 0 || high >= count)
    throw py::value_error("params[" + std::to_string(param) +
                          "].grad: expected row indices in [0, " + std::to_string(count) +
                          "), got " + std::to_string(low < 0 ? low : high));
}

}  // namespace

bool is_negated(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("is_neg");
  const auto found = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor, name));
  if (!found) throw py::error_already_set();
  return found.ptr() == Py_True;
}

// The getter is called directly, without an attribute lookup, which is a third of the cost of
// .grad.
const PyGetSetDef* Plan::Tensor::grad_getter(PyObject* param) {
  return getter(reinterpret_cast<PyObject*>(Py_TYPE(param)), grad_name());
}

py::object Plan::Tensor::gradient() const {
  auto found = py::reinterpret_steal<py::object>(grad != nullptr
                                                     ? grad->get(param.ptr(), grad->closure)
                                                     : PyObject_GetAttr(param.ptr(), grad_name()));
  if (!found) throw py::error_already_set();
  return found;
}

bool Plan::Tensor::is_frozen() const {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  static const PyGetSetDef* const of_tensors =
      getter(py::module_::import("torch").attr("Tensor").ptr(), name);
  const auto found = py::reinterpret_steal<py::object>(
      of_tensors != nullptr ? of_tensors->get(param.ptr(), of_tensors->closure)
                            : PyObject_GetAttr(param.ptr(), name));
  if (!found) throw py::error_already_set();
  return found.ptr() == Py_False;
}

bool Plan::Tensor::has_layout_of(const dlpack::Tensor& other) const {
  return other.dtype.code == code && other.dtype.bits == bits &&
         static_cast<std::size_t>(other.ndim) == shape.size() &&
         std::equal(shape.begin(), shape.end(), other.shape) &&
         std::equal(strides.begin(), strides.end(), other.strides);
}

// Sets the blocks' gradient pointers. False: the kernels cannot use a tensor or gradient.
bool Plan::read_gradients(const py::object& grads) {
  dlpack::Tensor param{}, grad{};
  held_.clear();
  updated_ = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    Tensor& t = tensors_[i];
    blocks_[i].grad = nullptr;
    blocks_[i].rows = nullptr;
    auto g = grads.is_none() ? t.gradient()
                             : py::reinterpret_borrow<py::object>(
                                   PyList_GetItem(grads.ptr(), static_cast<Py_ssize_t>(i)));
    if (!g) throw py::error_already_set();
    if (g.is_none()) {
      if (!replica_) continue;
      if (api_->describe(t.local.ptr(), &param) != 0) throw py::error_already_set();
      if (!locate(i, param)) return false;  // it is still refreshed
      continue;
    }
    if (keeps_gradients_ && grads.is_none() && t.is_frozen()) return false;
    if (api_->describe(t.local.ptr(), &param) != 0) throw py::error_already_set();
    if (!locate(i, param)) return false;
    // A sparse gradient is detected when `describe` fails, which is slow. `is_sparse`, which takes
    // time too, is read only if the last gradient was sparse.
    if (t.sparse) t.sparse = g.attr("is_sparse").cast<bool>();
    if (t.sparse || api_->describe(g.ptr(), &grad) != 0) {
      PyErr_Clear();
      t.sparse = read_sparse(i, g, param);
      if (!t.sparse) return false;
      ++updated_;
      continue;
    }
    if (!is_here(grad) || grad.dtype.code != t.code || grad.dtype.bits != t.bits ||
        !dlpack::same_layout(param, grad) || (may_be_negated(grad) && is_negated(g.ptr())))
      return false;
    // A tensor without elements has no address, but its step counts. Elements without an address
    // are a symbolic zero of autograd.
    if (grad.data == nullptr && blocks_[i].n != 0) return false;
    blocks_[i].grad =
        grad.data != nullptr ? dlpack::data_of(grad) : reinterpret_cast<std::byte*>(this);
    held_.push_back(std::move(g));
    ++updated_;
  }
  return true;
}

// Reads a gradient of some rows: their indices and values, as nn.Embedding(sparse=True) makes them.
bool Plan::read_sparse(std::size_t i, const py::object& grad, const dlpack::Tensor& param) {
  if (device_ != nullptr) return false;
  if (!grad.attr("is_sparse").cast<bool>() || param.ndim == 0 || !dlpack::row_major(param))
    return false;
  dlpack::Tensor t{};
  const auto describe_rows = [&](const char* part) {
    py::object found = grad.attr(part)();
    if (api_->describe(found.ptr(), &t) != 0) throw py::error_already_set();
    if (!dlpack::row_major(t)) {  // for example, the values if the loss is a sum
      found = found.attr("contiguous")();
      if (api_->describe(found.ptr(), &t) != 0) throw py::error_already_set();
    }
    return found;
  };
  py::object indices = describe_rows("_indices");
  if (t.device_type != dlpack::kCpu || t.ndim != 2 || t.shape[0] != 1) return false;
  Block& block = blocks_[i];
  const auto* const rows =
      reinterpret_cast<const std::int64_t*>(dlpack::data_of(t));  // torch's indices are int64
  const auto count = static_cast<std::size_t>(t.shape[1]);
  py::object values = describe_rows("_values");
  if (t.device_type != dlpack::kCpu || t.dtype.code != tensors_[i].code ||
      t.dtype.bits != tensors_[i].bits || t.ndim != param.ndim ||
      static_cast<std::size_t>(t.shape[0]) != count ||
      !std::equal(t.shape + 1, t.shape + t.ndim, param.shape + 1))
    return false;
  check_rows({rows, count}, param.shape[0], i);
  // Without rows there is nothing to read, but the step counts.
  block.rows = count != 0 ? rows : reinterpret_cast<const std::int64_t*>(this);
  block.grad = count != 0 ? dlpack::data_of(t) : reinterpret_cast<const std::byte*>(this);
  block.row_count = count;
  held_.push_back(std::move(indices));
  held_.push_back(std::move(values));
  return true;
}

bool Plan::has_gradients(const py::list& groups, const py::list& grads,
                         const py::list& addresses) const {
  const std::size_t n = tensors_.size();
  if (!holds_parameters(groups) || grads.size() != n || addresses.size() != n) return false;
  dlpack::Tensor described{};
  for (std::size_t i = 0; i < n; ++i) {
    PyObject* const expected = PyList_GET_ITEM(grads.ptr(), static_cast<Py_ssize_t>(i));
    if (tensors_[i].gradient().ptr() != expected) return false;
    if (expected == Py_None) {
      if (!tensors_[i].is_frozen()) return false;
      continue;
    }
    if (api_->describe(expected, &described) != 0) throw py::error_already_set();
    const void* const address =
        PyLong_AsVoidPtr(PyList_GET_ITEM(addresses.ptr(), static_cast<Py_ssize_t>(i)));
    if (dlpack::elements(described) != 0 && dlpack::data_of(described) != address) return false;
    if (api_->describe(tensors_[i].local.ptr(), &described) != 0) throw py::error_already_set();
    if (!tensors_[i].has_layout_of(described)) return false;
  }
  return true;
}

}  // namespace asyncopt::python
