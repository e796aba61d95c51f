// Makes a custom operator of ONNX Runtime from a class, with exceptions for errors.
//
// Such a class has kName, kInputs and kOutputs (arrays of ElementType), kNumRequired inputs before
// the optional ones, a constructor that takes KernelAttributes, and `void Compute(Context&) const`,
// which several threads may call at once.
#pragma once

#include <iterator>
#include <stdexcept>
#include <vector>

#include "engine/native/operators/onnxruntime_abi.h"

namespace llmsrec::onnxruntime {

// An error that ONNX Runtime reported, to be handed back to it.
struct Reported {
  Status* status;
};

inline void Require(Status* status) {
  if (status != nullptr) throw Reported{status};
}

using Shape = std::vector<int64_t>;

template <typename T>
struct Tensor {
  T* data;
  Shape shape;
};

class KernelAttributes {
 public:
  KernelAttributes(Api* api, const KernelInfo* info) : api_(api), info_(info) {}

  int64_t Int(const char* name) const {
    int64_t value;
    Require(GetIntAttribute::Call(api_, info_, name, &value));
    return value;
  }

  float Float(const char* name) const {
    float value;
    Require(GetFloatAttribute::Call(api_, info_, name, &value));
    return value;
  }

 private:
  Api* api_;
  const KernelInfo* info_;
};

class Context {
 public:
  Context(Api* api, KernelContext* context) : api_(api), context_(context) {}

  // Without data where the graph leaves an optional input out.
  template <typename T>
  Tensor<const T> Input(size_t index) {
    const Value* value = nullptr;
    Require(GetInput::Call(api_, context_, index, &value));
    if (value == nullptr) return {nullptr, {}};
    return {static_cast<const T*>(Data(value)), ShapeOf(value)};
  }

  template <typename T>
  T* Output(size_t index, const Shape& shape) {
    Value* value;
    Require(GetOutput::Call(api_, context_, index, shape.data(), shape.size(), &value));
    return static_cast<T*>(Data(value));
  }

  // Calls task(0), …, task(count - 1) on the session's threads; none may throw.
  template <typename Task>
  void ForEach(int64_t count, const Task& task) {
    const auto call = [](void* data, size_t index) {
      (*static_cast<const Task*>(data))(static_cast<int64_t>(index));
    };
    Require(ParallelFor::Call(api_, context_, call, static_cast<size_t>(count), 0,
                              const_cast<Task*>(&task)));
  }

 private:
  void* Data(const Value* value) {
    void* data;
    Require(GetTensorData::Call(api_, value, &data));
    return data;
  }

  Shape ShapeOf(const Value* value) {
    TensorInfo* info;
    Require(GetTensorInfo::Call(api_, value, &info));
    size_t num_dimensions;
    Require(GetNumDimensions::Call(api_, info, &num_dimensions));
    Shape shape(num_dimensions);
    Require(GetDimensions::Call(api_, info, shape.data(), num_dimensions));
    ReleaseTensorInfo::Call(api_, info);
    return shape;
  }

  Api* api_;
  KernelContext* context_;
};

template <typename Operator>
struct Kernel {
  Api* api;
  Operator op;
};

template <typename Body>
Status* CatchErrors(Api* api, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Reported& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return CreateStatus::Call(api, kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return CreateStatus::Call(api, kFail, error.what());
  }
}

template <typename Operator>
CustomOp MakeCustomOp() {
  CustomOp op{};
  op.version = kApiVersion;
  op.get_name = [](const CustomOp*) { return Operator::kName; };
  op.get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
  op.get_input_type = [](const CustomOp*, size_t index) { return Operator::kInputs[index]; };
  op.get_num_inputs = [](const CustomOp*) { return std::size(Operator::kInputs); };
  op.get_output_type = [](const CustomOp*, size_t index) { return Operator::kOutputs[index]; };
  op.get_num_outputs = [](const CustomOp*) { return std::size(Operator::kOutputs); };
  op.get_input_characteristic = [](const CustomOp*, size_t index) {
    return index < Operator::kNumRequired ? kRequired : kOptional;
  };
  op.get_output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
  op.get_input_memory_type = [](const CustomOp*, size_t) { return 0; };  // the CPU's
  op.create_kernel_with_status = [](const CustomOp*, Api* api, const KernelInfo* info,
                                    void** kernel) {
    return CatchErrors(
        api, [&] { *kernel = new Kernel<Operator>{api, Operator(KernelAttributes(api, info))}; });
  };
  op.compute_with_status = [](void* data, KernelContext* raw) {
    const auto* kernel = static_cast<const Kernel<Operator>*>(data);
    return CatchErrors(kernel->api, [&] {
      Context context(kernel->api, raw);
      kernel->op.Compute(context);
    });
  };
  op.destroy_kernel = [](void* kernel) { delete static_cast<Kernel<Operator>*>(kernel); };
  return op;
}

}  // namespace llmsrec::onnxruntime
