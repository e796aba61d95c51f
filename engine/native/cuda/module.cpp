// The Python face of the GPU's kernels: checks shapes and addresses, then hands them on.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <limits>
#include <string>

#include "engine/native/cuda/topk.h"

namespace nb = nanobind;

namespace {

using llmsrec::gpu::ItemType;
using llmsrec::gpu::TopKBuffers;
using llmsrec::gpu::TopKShape;

void Require(bool holds, const std::string& problem) {
  if (!holds) throw nb::value_error(problem.c_str());
}

void RequireBetween(int64_t value, int64_t low, int64_t high, const char* name) {
  Require(low <= value && value <= high, std::string(name) + ": expected " + std::to_string(low) +
                                             " to " + std::to_string(high) + "; got " +
                                             std::to_string(value));
}

ItemType ItemTypeOf(const std::string& name) {
  if (name == "float32") return ItemType::kFloat32;
  if (name == "float16") return ItemType::kFloat16;
  Require(name == "bfloat16",
          "item_dtype: expected float32, float16 or bfloat16; got '" + name + "'");
  return ItemType::kBFloat16;
}

size_t ItemBytes(ItemType type) { return type == ItemType::kFloat32 ? 4 : 2; }

TopKShape CheckedShape(int64_t num_queries, int64_t num_items, int64_t dim, int64_t max_k,
                       const std::string& item_dtype) {
  constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();
  constexpr int64_t kMaxQueries = 65535;  // more would overflow a grid
  constexpr int64_t kMaxDim = 65536;
  RequireBetween(num_queries, 0, kMaxQueries, "num_queries");
  RequireBetween(num_items, 0, kMaxRows, "num_items");
  RequireBetween(dim, 1, kMaxDim, "dim");
  RequireBetween(max_k, 0, kMaxRows, "max_k");
  return {
      .num_queries = num_queries,
      .num_items = num_items,
      .dim = dim,
      .max_k = max_k,
      .item_type = ItemTypeOf(item_dtype),
  };
}

// The device array at an address that came from Python.
template <typename T>
T* Array(uintptr_t address, int64_t count, size_t alignment, const char* name) {
  Require(count == 0 || address != 0, std::string(name) + ": expected a device address; got 0");
  Require(address % alignment == 0, std::string(name) + ": expected a multiple of " +
                                        std::to_string(alignment) + " bytes; got " +
                                        std::to_string(address));
  return reinterpret_cast<T*>(address);
}

void MaskedTopK(const TopKShape& shape, uintptr_t queries, uintptr_t items, uintptr_t excluded_rows,
                uintptr_t excluded_offsets, uintptr_t k, uintptr_t rows, uintptr_t scores,
                uintptr_t workspace, size_t workspace_bytes, uintptr_t stream) {
  const int64_t num_queries = shape.num_queries;
  const int64_t num_places = num_queries * shape.max_k;
  const size_t num_needed = llmsrec::gpu::WorkspaceBytes(shape);
  const TopKBuffers buffers{
      .queries = Array<const float>(queries, num_queries * shape.dim, 4, "queries"),
      .items = Array<const void>(items, shape.num_items * shape.dim, ItemBytes(shape.item_type),
                                 "items"),
      .excluded_rows = Array<const int32_t>(excluded_rows, 0, 4, "excluded_rows"),
      .excluded_offsets =
          Array<const int64_t>(excluded_offsets, num_queries, 8, "excluded_offsets"),
      .k = Array<const int32_t>(k, num_queries, 4, "k"),
      .rows = Array<int32_t>(rows, num_places, 4, "rows"),
      .scores = Array<float>(scores, num_places, 4, "scores"),
  };
  Require(workspace_bytes >= num_needed, "workspace_bytes: expected at least " +
                                             std::to_string(num_needed) + "; got " +
                                             std::to_string(workspace_bytes));
  void* arrays = Array<void>(workspace, num_places, 256, "workspace");
  llmsrec::gpu::MaskedTopK(shape, buffers, arrays, reinterpret_cast<cudaStream_t>(stream));
}

}  // namespace

NB_MODULE(_native_cuda, module) {
  nb::class_<TopKShape>(module, "TopKShape")
      .def(nb::new_(&CheckedShape), nb::kw_only(), nb::arg("num_queries"), nb::arg("num_items"),
           nb::arg("dim"), nb::arg("max_k"), nb::arg("item_dtype"))
      .def_prop_ro("workspace_bytes", &llmsrec::gpu::WorkspaceBytes);
  module.def("masked_topk", &MaskedTopK, nb::arg("shape"), nb::kw_only(), nb::arg("queries"),
             nb::arg("items"), nb::arg("excluded_rows"), nb::arg("excluded_offsets"), nb::arg("k"),
             nb::arg("rows"), nb::arg("scores"), nb::arg("workspace"), nb::arg("workspace_bytes"),
             nb::arg("stream"), nb::call_guard<nb::gil_scoped_release>());
  module.def("device_count", &llmsrec::gpu::NumDevices);
  module.def("built_architectures", &llmsrec::gpu::BuiltArchitectures);
}
