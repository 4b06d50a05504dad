// Backstop checks of operator arguments; jpmap_fast/kernels/_checks.py says the same in Python
// errors first.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>

namespace jpmap {

using torch::stable::Tensor;

inline void check_shape(const char* op, const char* name, const Tensor& tensor,
                        std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(shape.size()), op, ": expected ", name,
                  " with ", shape.size(), " dimensions, got ", tensor.dim());
  int64_t axis = 0;
  for (int64_t extent : shape) {
    STD_TORCH_CHECK(tensor.size(axis) == extent, op, ": expected ", name, " of size ", extent,
                    " in dimension ", axis, ", got ", tensor.size(axis));
    ++axis;
  }
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": expected ", name, " contiguous");
}

// A pointer of another GPU is as wrong as one of the CPU: the index counts.
inline void check_device(const char* op, const char* name, const Tensor& tensor,
                         const Tensor& like) {
  const auto device = [](const Tensor& t) {
    return t.is_cuda() ? "cuda:" + std::to_string(t.get_device()) : std::string("cpu");
  };
  STD_TORCH_CHECK(tensor.is_cuda() == like.is_cuda() && tensor.get_device() == like.get_device(),
                  op, ": expected ", name, " on the device of the first argument, ", device(like),
                  ", got ", device(tensor));
}

// What differs in type from the first argument, yet must lie where that lies.
inline void check_typed(const char* op, const char* name, const Tensor& tensor,
                        torch::headeronly::ScalarType type, const Tensor& like,
                        std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": expected ", name, " of type ",
                  torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  check_device(op, name, tensor, like);
  check_shape(op, name, tensor, shape);
}

inline bool aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// For kernels that read `bytes` bytes at a time: a contiguous view may begin between two such
// words.
inline void check_aligned(const char* op, const char* name, const Tensor& tensor,
                          uintptr_t bytes = 16) {
  STD_TORCH_CHECK(aligned(tensor.data_ptr(), bytes), op, ": expected ", name, " aligned to ", bytes,
                  " bytes, got a view that begins between them; pass a copy (clone())");
}

inline void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), op, ": expected ", name,
                  " of the same type as the first argument, ",
                  torch::headeronly::toString(like.scalar_type()), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  check_device(op, name, tensor, like);
}

inline void check(const char* op, const char* name, const Tensor& tensor, const Tensor& like,
                  std::initializer_list<int64_t> shape) {
  check_like(op, name, tensor, like);
  check_shape(op, name, tensor, shape);
}

// Calls body(T{}) with T = float or double.
template <class F>
void dispatch_floating(const char* op, const Tensor& tensor, const F& body) {
  const auto type = tensor.scalar_type();
  if (type == torch::headeronly::ScalarType::Float) {
    body(float{});
  } else {
    STD_TORCH_CHECK(type == torch::headeronly::ScalarType::Double, op,
                    ": expected float32 or float64");
    body(double{});
  }
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data_ptr());
}

template <class T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

}  // namespace jpmap
