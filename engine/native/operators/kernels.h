// The arithmetic of the encoder's own operators, compiled once for each instruction set.
//
// Numbers are quantized in blocks along the inner dimension: neighbours share a scale, and an
// integer product of two blocks is exact. |value| x |weight| x kBlock stays below 2^31.
#pragma once

#include <cstdint>

namespace llmsrec {

constexpr int64_t kBlock = 64;       // neighbours along K that share a scale
constexpr int64_t kPanel = 32;       // columns of a product that are packed together
constexpr int32_t kMaxValue = 8191;  // of a quantized activation
constexpr int kRows = 4;             // of a tile, whose sums fit the registers of every processor

struct QuantizeTask {
  const float* source = nullptr;   // [num_rows, num_blocks * kBlock]
  const float* operand = nullptr;  // of a fused operation, see Kernels
  int16_t* values = nullptr;       // like source
  float* scales = nullptr;  // [num_rows, num_blocks]; not finite where a block holds such a number
  int64_t num_rows = 0;
  int64_t num_blocks = 0;
  float epsilon = 0;
};

// One panel of columns of a product, for some rows.
struct MultiplyTask {
  const int16_t* values;       // [num_rows, K]
  const float* scales;         // [num_rows, K / kBlock]
  const int16_t* weight;       // [K / 2, kPanel, 2]
  const float* weight_scales;  // [K / kBlock, kPanel]
  const float* addend;         // like product, or null
  float* product;              // rows of kPanel floats, stride floats apart
  int64_t num_rows;
  int64_t num_blocks;
  int64_t stride;
};

// Causal attention of some consecutive queries of one head.
struct AttendTask {
  const float* queries;  // num_rows rows of dim floats, query_stride apart
  const float* keys;     // [panels of kPanel keys, dim, kPanel]: transposed, padded with zeros
  const float* values;   // rows of dim floats, value_stride apart
  float* attended;       // like queries
  float* weights;        // scratch, [kRows, panels * kPanel]
  int64_t first_row;     // the position of the first query
  int64_t num_rows;
  int64_t num_panels;
  int64_t dim;
  int64_t query_stride;
  int64_t value_stride;
  float scale;
};

struct Kernels {
  const char* instruction_set;
  void (*quantize)(const QuantizeTask& task);
  // Quantizes source / sqrt(mean(source^2) + epsilon) * operand, a weight for each column.
  void (*normalize)(const QuantizeTask& task);
  // Quantizes silu(source) * operand, which is like source.
  void (*gate)(const QuantizeTask& task);
  void (*multiply)(const MultiplyTask& task);
  void (*attend)(const AttendTask& task);
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// Chooses by what the processor supports.
const Kernels& BestKernels();

}  // namespace llmsrec
