// Operators of the encoder that ONNX Runtime has not, in the domain `llmsrec`.
//
// Matrices are multiplied with activations of 14 bits and weights of 13, which share a scale in
// each block of the inner dimension. Activations are quantized by themselves, or with the operation
// before them; CausalAttention computes no weight that its mask would hide.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <string>

#include "engine/native/operators/kernels.h"
#include "engine/native/operators/operator.h"

namespace llmsrec::onnxruntime {
namespace {

constexpr int64_t kTaskRows = 128;    // of a product, whose values stay in a core's cache
constexpr int64_t kTaskQueries = 64;  // of one head
constexpr int64_t kTaskVectors = 16;  // to quantize

int64_t DivideUp(int64_t count, int64_t size) { return (count + size - 1) / size; }

int64_t NumRows(const Shape& shape) {
  int64_t num_rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) num_rows *= shape[i];
  return num_rows;
}

std::string Text(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

void Require(bool holds, const char* expected, const Shape& shape) {
  if (!holds) throw std::invalid_argument(std::string(expected) + "; got " + Text(shape));
}

// Quantizes x [..., K] to values [..., K] and scales [..., K / kBlock]. The operand of a fused
// operation moves on by `operand_stride` from row to row.
void QuantizeRows(Context& context, void (*quantize)(const QuantizeTask&),
                  const Tensor<const float>& x, QuantizeTask task, int64_t operand_stride) {
  Shape shape = x.shape;
  Require(!shape.empty() && shape.back() % kBlock == 0, "expected rows of whole blocks", shape);
  const int64_t width = shape.back(), num_rows = NumRows(shape);
  auto* values = context.Output<int16_t>(0, shape);
  shape.back() = task.num_blocks = width / kBlock;
  auto* scales = context.Output<float>(1, shape);
  context.ForEach(DivideUp(num_rows, kTaskVectors), [&](int64_t index) {
    const int64_t row = index * kTaskVectors;
    QuantizeTask part = task;
    part.source = x.data + row * width;
    part.operand += row * operand_stride;
    part.values = values + row * width;
    part.scales = scales + row * task.num_blocks;
    part.num_rows = std::min(kTaskVectors, num_rows - row);
    quantize(part);
  });
}

// x [..., K] → values, scales
struct QuantizeBlocks {
  static constexpr const char* kName = "QuantizeBlocks";
  static constexpr ElementType kInputs[] = {kFloat};
  static constexpr size_t kNumRequired = 1;
  static constexpr ElementType kOutputs[] = {kInt16, kFloat};

  explicit QuantizeBlocks(const KernelAttributes&) {}

  void Compute(Context& context) const {
    QuantizeRows(context, BestKernels().quantize, context.Input<float>(0), {}, 0);
  }
};

// RMSNormalization of x [..., K] with weight [K] → values, scales
struct NormalizeBlocks {
  static constexpr const char* kName = "NormalizeBlocks";
  static constexpr ElementType kInputs[] = {kFloat, kFloat};
  static constexpr size_t kNumRequired = 2;
  static constexpr ElementType kOutputs[] = {kInt16, kFloat};

  explicit NormalizeBlocks(const KernelAttributes& attributes)
      : epsilon(attributes.Float("epsilon")) {}

  void Compute(Context& context) const {
    const auto x = context.Input<float>(0);
    const auto weight = context.Input<float>(1);
    Require(!x.shape.empty() && weight.shape == Shape{x.shape.back()},
            "expected a weight for each column", weight.shape);
    const QuantizeTask task = {.operand = weight.data, .epsilon = epsilon};
    QuantizeRows(context, BestKernels().normalize, x, task, 0);
  }

  float epsilon;
};

// silu(gate) * up, both [..., K] → values, scales
struct GateBlocks {
  static constexpr const char* kName = "GateBlocks";
  static constexpr ElementType kInputs[] = {kFloat, kFloat};
  static constexpr size_t kNumRequired = 2;
  static constexpr ElementType kOutputs[] = {kInt16, kFloat};

  explicit GateBlocks(const KernelAttributes&) {}

  void Compute(Context& context) const {
    const auto gate = context.Input<float>(0);
    const auto up = context.Input<float>(1);
    Require(gate.shape == up.shape, "expected two tensors of one shape", up.shape);
    const int64_t width = gate.shape.empty() ? 0 : gate.shape.back();
    QuantizeRows(context, BestKernels().gate, gate, {.operand = up.data}, width);
  }
};

struct MatMulBlocks {
  static constexpr const char* kName = "MatMulBlocks";
  static constexpr ElementType kInputs[] = {kInt16, kFloat, kInt16, kFloat, kFloat};
  static constexpr size_t kNumRequired = 4;
  static constexpr ElementType kOutputs[] = {kFloat};

  explicit MatMulBlocks(const KernelAttributes&) {}

  // values [..., K], scales [..., K / kBlock], weight [N / kPanel, K / 2, kPanel, 2],
  // weight_scales [N / kPanel, K / kBlock, kPanel] and perhaps addend [..., N] → sum [..., N]
  void Compute(Context& context) const {
    const auto values = context.Input<int16_t>(0);
    const auto scales = context.Input<float>(1);
    const auto weight = context.Input<int16_t>(2);
    const auto weight_scales = context.Input<float>(3);
    const auto addend = context.Input<float>(4);
    Shape shape = values.shape;
    const int64_t num_blocks = shape.empty() ? 0 : shape.back() / kBlock;
    const int64_t num_panels = weight.shape.empty() ? 0 : weight.shape[0];
    const int64_t depth = num_blocks * kBlock;
    Require(num_blocks > 0 && shape.back() == depth, "expected values of whole blocks", shape);
    const Shape packed = {num_panels, depth / 2, kPanel, 2};
    Require(weight.shape == packed, "expected packed weights of the values' depth", weight.shape);
    const Shape packed_scales = {num_panels, num_blocks, kPanel};
    Require(weight_scales.shape == packed_scales, "expected a scale for each block of weights",
            weight_scales.shape);
    const int64_t num_rows = NumRows(shape), stride = num_panels * kPanel;
    shape.back() = num_blocks;
    Require(scales.shape == shape, "expected a scale for each block of values", scales.shape);
    shape.back() = stride;
    Require(addend.data == nullptr || addend.shape == shape, "expected an addend like the product",
            addend.shape);
    auto* product = context.Output<float>(0, shape);
    // Neighbouring tasks share rows, which are read from the cache.
    context.ForEach(DivideUp(num_rows, kTaskRows) * num_panels, [&](int64_t index) {
      const int64_t row = index / num_panels * kTaskRows, panel = index % num_panels;
      const int64_t at = row * stride + panel * kPanel;
      BestKernels().multiply({
          .values = values.data + row * depth,
          .scales = scales.data + row * num_blocks,
          .weight = weight.data + panel * depth * kPanel,
          .weight_scales = weight_scales.data + panel * num_blocks * kPanel,
          .addend = addend.data == nullptr ? nullptr : addend.data + at,
          .product = product + at,
          .num_rows = std::min(kTaskRows, num_rows - row),
          .num_blocks = num_blocks,
          .stride = stride,
      });
    });
  }
};

class CausalAttention {
 public:
  static constexpr const char* kName = "CausalAttention";
  static constexpr ElementType kInputs[] = {kFloat, kFloat, kFloat};
  static constexpr size_t kNumRequired = 3;
  static constexpr ElementType kOutputs[] = {kFloat};

  explicit CausalAttention(const KernelAttributes& attributes)
      : num_heads_(attributes.Int("q_num_heads")), num_key_heads_(attributes.Int("kv_num_heads")) {
    if (num_key_heads_ <= 0 || num_heads_ <= 0 || num_heads_ % num_key_heads_ != 0) {
      throw std::invalid_argument("expected q_num_heads to be a multiple of kv_num_heads");
    }
  }

  // query [B, T, H * D], key and value [B, T, kv_num_heads * D] → attended [B, T, H * D]
  void Compute(Context& context) const {
    const auto query = context.Input<float>(0);
    const auto key = context.Input<float>(1);
    const auto value = context.Input<float>(2);
    const int64_t dim = query.shape.size() == 3 ? query.shape[2] / num_heads_ : 0;
    Require(dim > 0 && query.shape[2] == num_heads_ * dim, "expected queries [B, T, H * D]",
            query.shape);
    const Shape expected = {query.shape[0], query.shape[1], num_key_heads_ * dim};
    Require(key.shape == expected, "expected keys [B, T, heads * D] beside the queries", key.shape);
    Require(value.shape == expected, "expected values like the keys", value.shape);
    Attend(context, query, key.data, value.data, dim);
  }

 private:
  void Attend(Context& context, const Tensor<const float>& query, const float* key,
              const float* value, int64_t dim) const {
    const int64_t num_prompts = query.shape[0], num_tokens = query.shape[1];
    const int64_t num_panels = DivideUp(num_tokens, kPanel);
    const int64_t num_parts = DivideUp(num_tokens, kTaskQueries);
    const int64_t num_tasks = num_prompts * num_heads_ * num_parts;
    const int64_t key_stride = num_key_heads_ * dim;
    const int64_t transposed_size = num_panels * kPanel * dim;
    const int64_t weights_size = kRows * num_panels * kPanel;
    auto* attended = context.Output<float>(0, query.shape);
    const auto transposed =
        std::make_unique_for_overwrite<float[]>(num_prompts * num_key_heads_ * transposed_size);
    const auto weights = std::make_unique_for_overwrite<float[]>(num_tasks * weights_size);
    context.ForEach(num_prompts * num_key_heads_, [&](int64_t index) {
      const int64_t prompt = index / num_key_heads_, head = index % num_key_heads_;
      Transpose(key + prompt * num_tokens * key_stride + head * dim, num_tokens, dim,
                transposed.get() + index * transposed_size);
    });
    context.ForEach(num_tasks, [&](int64_t index) {
      const int64_t part = num_parts - 1 - index % num_parts;  // that with most keys first
      const int64_t head = index / num_parts % num_heads_, prompt = index / num_parts / num_heads_;
      const int64_t key_head = head / (num_heads_ / num_key_heads_);
      const int64_t row = part * kTaskQueries;
      const int64_t at = (prompt * num_tokens + row) * num_heads_ * dim + head * dim;
      BestKernels().attend({
          .queries = query.data + at,
          .keys = transposed.get() + (prompt * num_key_heads_ + key_head) * transposed_size,
          .values = value + prompt * num_tokens * key_stride + key_head * dim,
          .attended = attended + at,
          .weights = weights.get() + index * weights_size,
          .first_row = row,
          .num_rows = std::min(kTaskQueries, num_tokens - row),
          .num_panels = num_panels,
          .dim = dim,
          .query_stride = num_heads_ * dim,
          .value_stride = key_stride,
          .scale = 1 / std::sqrt(static_cast<float>(dim)),
      });
    });
  }

  // keys [num_tokens, dim] → [panels, dim, kPanel], padded with zeros
  void Transpose(const float* keys, int64_t num_tokens, int64_t dim, float* transposed) const {
    std::fill_n(transposed, DivideUp(num_tokens, kPanel) * kPanel * dim, 0.f);
    for (int64_t token = 0; token < num_tokens; ++token) {
      float* column = transposed + token / kPanel * kPanel * dim + token % kPanel;
      const float* source = keys + token * num_key_heads_ * dim;
      for (int64_t i = 0; i < dim; ++i) column[i * kPanel] = source[i];
    }
  }

  int64_t num_heads_;
  int64_t num_key_heads_;
};

// Made once, and never released: it must outlive every session.
CustomOpDomain* Domain(Api* api) {
  static const CustomOp ops[] = {MakeCustomOp<QuantizeBlocks>(), MakeCustomOp<NormalizeBlocks>(),
                                 MakeCustomOp<GateBlocks>(), MakeCustomOp<MatMulBlocks>(),
                                 MakeCustomOp<CausalAttention>()};
  static CustomOpDomain* const domain = [api] {
    CustomOpDomain* made;
    Require(CreateCustomOpDomain::Call(api, "llmsrec", &made));
    for (const CustomOp& op : ops) Require(AddCustomOp::Call(api, made, &op));
    return made;
  }();
  return domain;
}

}  // namespace
}  // namespace llmsrec::onnxruntime

using namespace llmsrec::onnxruntime;

// What ONNX Runtime calls when a session's options name this library.
extern "C" [[gnu::visibility("default")]] Status* RegisterCustomOps(SessionOptions* options,
                                                                    const ApiBase* base) {
  Api* api = base->get_api(kApiVersion);
  if (api == nullptr) {
    return CreateStatus::Call(base->get_api(1), kFail, "ONNX Runtime 1.18 or newer is needed");
  }
  return CatchErrors(api, [&] { Require(AddCustomOpDomain::Call(api, options, Domain(api))); });
}
