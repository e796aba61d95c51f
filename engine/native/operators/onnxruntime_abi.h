// The part of ONNX Runtime's C interface that its custom operators need.
//
// The wheels of ONNX Runtime carry no headers. The interface is frozen for good: a function keeps
// its place in the table of every later release. Source: onnxruntime_c_api.h, API version 18.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmsrec::onnxruntime {

constexpr uint32_t kApiVersion = 18;  // of ONNX Runtime 1.18

struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;
struct ShapeInferContext;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kInt16 = 5 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };

using Api = void* const;  // the first place of the table of functions

struct ApiBase {
  Api* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// A function of the table, by its place. Each gives a status, which is null for success.
template <size_t place, typename... Arguments>
struct Function {
  static Status* Call(Api* api, Arguments... arguments) {
    return reinterpret_cast<Status* (*)(Arguments...)>(api[place])(arguments...);
  }
};

using CreateStatus = Function<0, ErrorCode, const char*>;
using CreateCustomOpDomain = Function<26, const char*, CustomOpDomain**>;
struct CustomOp;
using AddCustomOp = Function<27, CustomOpDomain*, const CustomOp*>;
using AddCustomOpDomain = Function<28, SessionOptions*, CustomOpDomain*>;
using GetTensorData = Function<51, const Value*, void**>;
using GetElementType = Function<60, const TensorInfo*, ElementType*>;
using GetNumDimensions = Function<61, const TensorInfo*, size_t*>;
using GetDimensions = Function<62, const TensorInfo*, int64_t*, size_t>;
using GetTensorInfo = Function<65, const Value*, TensorInfo**>;
using GetFloatAttribute = Function<85, const KernelInfo*, const char*, float*>;
using GetIntAttribute = Function<86, const KernelInfo*, const char*, int64_t*>;
using GetInput = Function<90, const KernelContext*, size_t, const Value**>;
using GetOutput = Function<91, KernelContext*, size_t, const int64_t*, size_t, Value**>;
using ReleaseTensorInfo = Function<99, TensorInfo*>;  // gives nothing
using ParallelFor =
    Function<274, const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*>;

struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, Api*, const KernelInfo*);
  const char* (*get_name)(const CustomOp*);
  const char* (*get_execution_provider)(const CustomOp*);
  ElementType (*get_input_type)(const CustomOp*, size_t);
  size_t (*get_num_inputs)(const CustomOp*);
  ElementType (*get_output_type)(const CustomOp*, size_t);
  size_t (*get_num_outputs)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy_kernel)(void*);
  Characteristic (*get_input_characteristic)(const CustomOp*, size_t);
  Characteristic (*get_output_characteristic)(const CustomOp*, size_t);
  int (*get_input_memory_type)(const CustomOp*, size_t);
  int (*get_variadic_arity_and_homogeneity[4])(const CustomOp*);
  Status* (*create_kernel_with_status)(const CustomOp*, Api*, const KernelInfo*, void**);
  Status* (*compute_with_status)(void*, KernelContext*);
  Status* (*infer_output_shape)(const CustomOp*, ShapeInferContext*);
  int (*get_start_and_end_version[2])(const CustomOp*);
  size_t (*get_may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*get_alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*));

}  // namespace llmsrec::onnxruntime
