// Attention of a step's rows over some layers' caches, shared out over a team: a task is a block of
// neighbouring rows and a KV head.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "attention.h"
#include "matmul_plain.h"
#include "team.h"

namespace glidecape {

// Heads of an attention over a cache.
struct Heads {
  int num_heads, num_kv_heads, head_dim;

  int group() const { return num_heads / num_kv_heads; }
};

// Attention over one layer's cache: of the queries from column `query` of each row on; the result goes to
// the columns from `column` on.
template <class Number>
struct Glance {
  CacheView<Number> cache;
  Sight sight;
  ScoreRules rules;
  int64_t query, column;
};

// What Llama's layers make of their scores.
inline ScoreRules plain_rules(int head_dim) { return {1.0f / std::sqrt(static_cast<float>(head_dim))}; }

// Room for attention with such heads over all that a sequence has.
inline void fit(AttentionScratch& scratch, const Heads& heads, const GlidecapeStep& step) {
  int64_t longest = 0;
  for (int i = 0; i < step.num_sequences; ++i)
    longest = std::max(longest, step.context_lens[i] + step.node_counts[i]);
  scratch.fit(static_cast<int64_t>(VisibleSlots::kRows) * heads.group(), (heads.head_dim + 31) & ~31, longest);
}

// With the products that are fastest on this machine.
template <class Number, class Query, class Rows>
inline void attend_best(const AttentionTask<Number, Query, Rows>& task,
                        const AttentionTask<Number, Query, Rows>* next, AttentionScratch& scratch) {
#ifdef GLIDECAPE_AVX512
  if constexpr (std::is_same_v<Number, bf16>)
    if (!prefers_multiply_add()) return attend<PairUnits>(task, next, scratch);
#endif
  attend<FloatUnits>(task, next, scratch);
}

// One thread's share.
template <class Number, class Query, class Rows>
inline void attend_blocks(Team::Worker& worker, int phase, const GlidecapeStep& step,
                          const VisibleSlots& visible, const Heads& heads,
                          const Glance<Number>* glances, int num_glances,
                          const QueryView<Query>& queries, Rows& out, AttentionScratch& scratch) {
  using Task = AttentionTask<Number, Query, Rows>;
  const int group = heads.group(), num_kv_heads = heads.num_kv_heads;
  const int tasks_each = static_cast<int>(visible.blocks().size()) * num_kv_heads;
  const auto task_of = [&](int index, NodeKeys* seen) {
    const Glance<Number>& glance = glances[index / tasks_each];
    const RowBlock& block = visible.blocks()[index % tasks_each / num_kv_heads];
    const int64_t kv_head = index % num_kv_heads, head = kv_head * group;
    for (int i = 0; i < block.count; ++i)
      seen[i] = visible.keys(step, block.first + i, glance.sight);
    ScoreRules rules = glance.rules;
    if (rules.sinks) rules.sinks += head;
    const Query* first =
        queries.first + block.first * queries.row_stride + glance.query + head * queries.head_stride;
    return Task{glance.cache, static_cast<int64_t>(num_kv_heads) * heads.head_dim,
                kv_head * heads.head_dim, group, heads.head_dim, rules,
                {first, queries.row_stride, queries.head_stride},
                &out, block.first, glance.column + head * heads.head_dim, seen, block.count};
  };
  const int tasks = num_glances * tasks_each;
  worker.for_each(phase, tasks, [&](int index) {
    NodeKeys seen[VisibleSlots::kRows], seen_next[VisibleSlots::kRows];
    const Task task = task_of(index, seen);
    if (!worker.owns(index + 1, tasks)) return attend_best<Number, Query, Rows>(task, nullptr, scratch);
    const Task next = task_of(index + 1, seen_next);
    attend_best<Number, Query, Rows>(task, &next, scratch);
  });
}

}  // namespace glidecape
