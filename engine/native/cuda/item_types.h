// The element types of item vectors, read eight at a time and widened to float without loss.
#pragma once

#include <cstdint>

#include "engine/native/cuda/device_code.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace llmsrec::gpu {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

LLMSREC_DEVICE float ToFloat(float value) { return value; }

LLMSREC_DEVICE float ToFloat(BFloat16 value) {
  return BitCast<float>(static_cast<uint32_t>(value.bits) << 16);
}

LLMSREC_DEVICE float ToFloat(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t shifted = (value.bits & 0x7fffu) << 13;
  const bool is_finite = shifted < 0x0f800000u;
  const uint32_t magnitude =
      is_finite ? BitCast<uint32_t>(BitCast<float>(shifted) * 0x1p112f) : shifted | 0x7f800000u;
  return BitCast<float>(magnitude | (value.bits & 0x8000u) << 16);
#endif
}

LLMSREC_DEVICE uint32_t BitsOf(float value) { return BitCast<uint32_t>(value); }
LLMSREC_DEVICE uint32_t BitsOf(BFloat16 value) { return value.bits; }
LLMSREC_DEVICE uint32_t BitsOf(Float16 value) { return value.bits; }

constexpr int kOctet = 8;

// Eight neighbouring elements of a row, in words so that a load is waited for only when used.
template <typename T>
struct alignas(16) [[gnu::may_alias]] Octet {
  static constexpr int kPerWord = sizeof(uint32_t) / sizeof(T);
  uint32_t words[kOctet / kPerWord];
};

LLMSREC_DEVICE float Element(const Octet<float>& octet, int i) {
  return BitCast<float>(octet.words[i]);
}

template <typename T>
LLMSREC_DEVICE float Element(const Octet<T>& octet, int i) {
  return ToFloat(T{static_cast<uint16_t>(octet.words[i / 2] >> i % 2 * 16)});
}

// The elements of `row` from `first` on, zero beyond its end. `is_aligned` says that the row starts
// at a multiple of 16 bytes and holds whole octets.
template <typename T>
LLMSREC_DEVICE Octet<T> LoadOctet(const T* row, int64_t first, int64_t dim, bool is_aligned) {
  Octet<T> octet = {};
  if (is_aligned) {
    if (first < dim) octet = *reinterpret_cast<const Octet<T>*>(row + first);
  } else {
    LLMSREC_UNROLL
    for (int i = 0; i < kOctet; ++i) {
      const uint32_t bits = first + i < dim ? BitsOf(row[first + i]) : 0;
      octet.words[i / Octet<T>::kPerWord] |= bits << i % Octet<T>::kPerWord * 16;
    }
  }
  return octet;
}

}  // namespace llmsrec::gpu
