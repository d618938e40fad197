// Attention alone: writes a layer's keys and values to the step's slots and attends over the paged cache.
#include "paged_attention.h"

#include "attention_blocks.h"
#include "guard.h"

namespace glidecape {
namespace {

// Results [rows][heads][dim]. What is computed is heads of `computed_dim`, of which the first dim numbers
// are results; see PlainRows for put.
template <class Number>
class HeadRows {
 public:
  HeadRows(void* numbers, int num_heads, int dim, int computed_dim)
      : numbers_(static_cast<Number*>(numbers)), num_heads_(num_heads), dim_(dim),
        computed_dim_(computed_dim) {}

  void put(int64_t row, int64_t first, Lanes a, Lanes b) {
    const int64_t head = first / computed_dim_, d = first % computed_dim_;
    Number* to = numbers_ + (row * num_heads_ + head) * dim_ + d;
    if (d + 32 <= dim_) {
      store(to, a);
      store(to + 16, b);
    } else if (d < dim_) {
      Number end[32];
      store(end, a);
      store(end + 16, b);
      std::copy_n(end, dim_ - d, to);
    }
  }

 private:
  Number* numbers_;
  int num_heads_, dim_, computed_dim_;
};

class Attention {
 public:
  explicit Attention(int threads) : threads_(std::max(1, threads)), scratch_(threads_) {}

  void begin(const GlidecapeStep& step) { visible_.find(step); }

  void run(const GlidecapeStep& step, const GlidecapeAttention& layer, const GlidecapeAttentionCall& call) {
    if (layer.is_float) run_in<float>(step, layer, call);
    else run_in<bf16>(step, layer, call);
  }

 private:
  // Products below which other threads are left alone: waking them takes longer.
  static constexpr double kFewProducts = 1 << 19;

  template <class Number>
  void run_in(const GlidecapeStep& step, const GlidecapeAttention& layer, const GlidecapeAttentionCall& call) {
    const Heads heads{layer.num_heads, layer.num_kv_heads, layer.head_dim};
    const CacheView<Number> cache{static_cast<Number*>(call.key_cache), static_cast<Number*>(call.value_cache)};
    for (AttentionScratch& scratch : scratch_) fit(scratch, heads, step);
    for (int64_t row = 0; row < step.num_rows; ++row) {
      const int64_t slot = step.slots[row];
      write(call.keys, row, layer.num_kv_heads, layer.head_dim, layer.head_dim, cache.keys, slot);
      write(call.values, row, layer.num_kv_heads, layer.value_dim, layer.head_dim, cache.values, slot);
    }
    const Glance<Number> glance{
        cache, {layer.window, layer.chunk}, {layer.scale, layer.softcap, layer.sinks}, 0, 0};
    const QueryView<Number> queries{
        static_cast<const Number*>(call.queries.first), call.queries.row_stride, call.queries.head_stride};
    HeadRows<Number> out(call.out, layer.num_heads, layer.value_dim, layer.head_dim);
    const auto attend = [&](Team& team) {
      team.run([&](Team::Worker& worker) {
        attend_blocks<Number>(worker, 0, step, visible_, heads, &glance, 1, queries, out,
                              scratch_[worker.thread()]);
      }, 1);
    };
    if (products(step, layer) < kFewProducts) attend(alone_);
    else SharedTeam::with(threads_, attend);
  }

  static double products(const GlidecapeStep& step, const GlidecapeAttention& layer) {
    double seen = 0;
    for (int i = 0; i < step.num_sequences; ++i)
      seen += static_cast<double>(step.node_counts[i]) * (step.context_lens[i] + step.node_counts[i]);
    return seen * layer.num_heads * layer.head_dim;
  }

  // A row's heads of `dim` numbers to a slot of the pool, where they have `pool_dim`.
  template <class Number>
  static void write(const GlidecapeHeads& from, int64_t row, int heads, int dim, int pool_dim, Number* pool,
                    int64_t slot) {
    Number* to = pool + slot * heads * pool_dim;
    const Number* head = static_cast<const Number*>(from.first) + row * from.row_stride;
    for (int i = 0; i < heads; ++i, head += from.head_stride, to += pool_dim)
      std::fill(std::copy_n(head, dim, to), to + pool_dim, Number{});
  }

  const int threads_;
  std::vector<AttentionScratch> scratch_;
  VisibleSlots visible_;
  Team alone_{1};
};

}  // namespace
}  // namespace glidecape

using namespace glidecape;

void* glidecape_attention_create(int32_t threads) {
  return created([&] { return new Attention(threads); });
}

bool glidecape_attention_begin(void* attention, const GlidecapeStep* step) {
  return succeeds([&] { static_cast<Attention*>(attention)->begin(*step); });
}

bool glidecape_attention_run(void* attention, const GlidecapeStep* step, const GlidecapeAttention* layer,
                             const GlidecapeAttentionCall* call) {
  return succeeds([&] { static_cast<Attention*>(attention)->run(*step, *layer, *call); });
}

void glidecape_attention_destroy(void* attention) { delete static_cast<Attention*>(attention); }
