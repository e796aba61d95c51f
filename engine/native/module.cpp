// The Python face of the kernels: checks shapes and dtypes, then hands raw buffers on.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "engine/native/topk.h"

namespace nb = nanobind;

namespace {

using Array = nb::ndarray<nb::ro>;
template <typename T>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

bool IsContiguous(const Array& array) {
  int64_t stride = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) > 1 && array.stride(i) != stride) return false;
    stride *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

std::string ShapeOf(const Array& array) {
  std::string text = "[";
  for (size_t i = 0; i < array.ndim(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(array.shape(i));
  }
  return text + "]";
}

void Require(bool holds, const std::string& problem) {
  if (!holds) throw nb::value_error(problem.c_str());
}

template <typename T>
const T* Data(const Array& array, size_t ndim, const char* expected) {
  Require(array.dtype() == nb::dtype<T>() && array.ndim() == ndim && IsContiguous(array) &&
              array.device_type() == nb::device::cpu::value,
          std::string("expected a C-contiguous ") + expected + "; got shape " + ShapeOf(array) +
              ", " + std::to_string(array.dtype().bits) + "-bit, " +
              (IsContiguous(array) ? "contiguous" : "not contiguous"));
  return static_cast<const T*>(array.data());
}

void RequireLength(const Array& array, int64_t length, const char* expected) {
  Require(std::cmp_equal(array.shape(0), length), std::string("expected ") + expected + " = [" +
                                                      std::to_string(length) + "]; got " +
                                                      ShapeOf(array));
}

void CheckExclusions(const llmsrec::TopKInput& input, int64_t num_excluded) {
  const std::span offsets(input.excluded_offsets, input.num_queries + 1);
  Require(offsets.front() == 0 && offsets.back() == num_excluded &&
              std::is_sorted(offsets.begin(), offsets.end()),
          "excluded_offsets: expected to ascend from 0 to the number of excluded rows");
  for (int64_t query = 0; query < input.num_queries; ++query) {
    const std::span rows(input.excluded_rows + offsets[query], offsets[query + 1] - offsets[query]);
    const bool ascends = std::ranges::adjacent_find(rows, std::greater_equal()) == rows.end();
    Require(ascends && (rows.empty() || (rows.front() >= 0 && rows.back() < input.num_items)),
            "excluded_rows: expected ascending, unique rows of the items for each query");
  }
}

llmsrec::TopKInput CheckedInput(const Array& queries, const Array& items,
                                const Array& excluded_rows, const Array& excluded_offsets,
                                const Array& k) {
  llmsrec::TopKInput input{
      .queries = Data<float>(queries, 2, "float32 queries [B, D]"),
      .items = Data<float>(items, 2, "float32 items [N, D]"),
      .excluded_rows = Data<int32_t>(excluded_rows, 1, "int32 excluded_rows [E]"),
      .excluded_offsets = Data<int64_t>(excluded_offsets, 1, "int64 excluded_offsets [B + 1]"),
      .k = Data<int32_t>(k, 1, "int32 k [B]"),
      .num_queries = static_cast<int64_t>(queries.shape(0)),
      .num_items = static_cast<int64_t>(items.shape(0)),
      .dim = static_cast<int64_t>(queries.shape(1)),
  };
  Require(input.dim > 0 && queries.shape(1) == items.shape(1),
          "expected queries [B, D] and items [N, D] of one width; got " + ShapeOf(queries) +
              " and " + ShapeOf(items));
  Require(input.num_items <= std::numeric_limits<int32_t>::max(),
          "items: expected fewer than 2**31 rows");
  RequireLength(k, input.num_queries, "k [B]");
  Require(std::all_of(input.k, input.k + input.num_queries, [](int32_t k) { return k >= 0; }),
          "k: expected no negative number");
  RequireLength(excluded_offsets, input.num_queries + 1, "excluded_offsets [B + 1]");
  CheckExclusions(input, static_cast<int64_t>(excluded_rows.shape(0)));
  return input;
}

template <typename T>
Result<T> ToNumpy(std::unique_ptr<T[]> values, int64_t num_rows, int64_t num_columns) {
  const nb::capsule owner(values.get(),
                          [](void* data) noexcept { delete[] static_cast<T*>(data); });
  T* data = values.release();
  return Result<T>(data, {static_cast<size_t>(num_rows), static_cast<size_t>(num_columns)}, owner);
}

nb::tuple MaskedTopK(const Array& queries, const Array& items, const Array& excluded_rows,
                     const Array& excluded_offsets, const Array& k, int num_threads) {
  const llmsrec::TopKInput input = CheckedInput(queries, items, excluded_rows, excluded_offsets, k);
  Require(num_threads >= 1, "num_threads: expected at least 1");
  const std::span all_k(input.k, input.num_queries);
  const int64_t max_k = all_k.empty() ? 0 : std::ranges::max(all_k);
  auto rows = std::make_unique_for_overwrite<int32_t[]>(input.num_queries * max_k);
  auto scores = std::make_unique_for_overwrite<float[]>(input.num_queries * max_k);
  {
    const nb::gil_scoped_release released;
    llmsrec::MaskedTopK(input, {rows.get(), scores.get(), max_k}, num_threads);
  }
  return nb::make_tuple(ToNumpy(std::move(rows), input.num_queries, max_k),
                        ToNumpy(std::move(scores), input.num_queries, max_k));
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("masked_topk", &MaskedTopK, nb::arg("queries"), nb::arg("items"),
             nb::arg("excluded_rows"), nb::arg("excluded_offsets"), nb::arg("k"),
             nb::arg("num_threads"));
}
