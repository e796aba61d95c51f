// A score and an index in one integer: the greater key ranks first, equal scores by lower index.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/native/cuda/device_code.h"

namespace llmsrec::gpu {

using RankKey = uint64_t;

constexpr RankKey kUnranked = 0;            // of what is excluded, missing, NaN or -infinity
constexpr RankKey kAboveAll = ~RankKey{0};  // no score has this key

// Ascends with the score; 0 for NaN and -infinity alone.
LLMSREC_DEVICE uint32_t OrderedScore(float score) {
  if (!(score > -INFINITY)) return 0;
  const uint32_t bits = BitCast<uint32_t>(score == 0 ? 0.0f : score);  // -0 ties with 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

LLMSREC_DEVICE RankKey MakeKey(uint32_t ordered_score, int64_t index) {
  if (ordered_score == 0) return kUnranked;
  return static_cast<RankKey>(ordered_score) << 32 | ~static_cast<uint32_t>(index);
}

LLMSREC_DEVICE int32_t IndexOf(RankKey key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}

// Of a ranked key.
LLMSREC_DEVICE float ScoreOf(RankKey key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return BitCast<float>((ordered >> 31) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

}  // namespace llmsrec::gpu
