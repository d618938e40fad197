// A Llama-family model from tokens to final hidden states, or one matrix product, in one call.
#include "decoder.h"

#include "candidates.h"
#include "guard.h"
#include "layers.h"

namespace glidecape {
namespace {

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void set_layer(int index, const GlidecapeLayer& from) = 0;
  virtual void run(const GlidecapeStep& step, const GlidecapeCache* caches,
                   const int64_t* token_ids, bf16* hidden) = 0;
};

template <class Format>
class DecoderOf : public Decoder {
 public:
  DecoderOf(const GlidecapeShape& shape, const GlidecapeEnds& ends, int threads)
      : shape_(shape), threads_(std::max(1, threads)), embedding_(ends.embedding),
        final_norm_(ends.final_norm, ends.final_norm + shape.hidden), layers_(shape.num_layers),
        runner_(shape, ends.rotary, threads_) {}

  void set_layer(int index, const GlidecapeLayer& from) override {
    layers_[index] = pack_layer<Format>(arena_, shape_, from);
  }

  void run(const GlidecapeStep& step, const GlidecapeCache* caches, const int64_t* token_ids,
           bf16* hidden) override {
    constexpr int kPhases = LayerRunner<Format>::kPhases;
    const int count = shape_.num_layers;
    SharedTeam::with(threads_, [&](Team& team) {
      x_.resize(static_cast<int64_t>(step.num_rows) * shape_.hidden);
      runner_.prepare(step, x_.data());
      team.run([&](int thread) {
        team.for_each(0, step.num_rows, [&](int row) {
          widen(embedding_ + token_ids[row] * shape_.hidden, shape_.hidden, runner_.x(row));
          runner_.norm(layers_[0].attention_norm, row);
        });
        for (int i = 0; i < count; ++i) {
          const Layer<Format>* next = i + 1 < count ? &layers_[i + 1] : nullptr;
          runner_.run_layer(team, 1 + kPhases * i, layers_[i], next ? &next->qkv : nullptr, step,
                            {caches[i].keys, caches[i].values}, thread, [&](int row) {
                              if (next) runner_.norm(next->attention_norm, row);
                              else read_out(row, hidden);
                            });
        }
      }, 1 + kPhases * count);
    });
  }

 private:
  void read_out(int row, bf16* hidden) {
    bf16* to = hidden + static_cast<int64_t>(row) * shape_.hidden;
    rms_norm(runner_.x(row), final_norm_.data(), shape_.hidden, shape_.eps,
             [&](int i, Lanes a, Lanes b) {
               store(to + i, a);
               if (i + 16 < shape_.hidden) store(to + i + 16, b);
             });
  }

  const GlidecapeShape shape_;
  const int threads_;
  const bf16* embedding_;
  const std::vector<float> final_norm_;
  Arena arena_;
  std::vector<Layer<Format>> layers_;
  LayerRunner<Format> runner_;
  std::vector<float> x_;
};

// A matrix product of its own.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual void run(const void* x, int rows, float* y) = 0;
};

// Number: what rows come in.
template <class Format, class Number>
class LinearOf : public Linear {
 public:
  LinearOf(const GlidecapeMatrix& weight, int outputs, int inputs, int threads)
      : matrix_(Format::pack(arena_, weight, nullptr, outputs, inputs, [](int i) { return i; })),
        threads_(std::max(1, threads)) {}

  void run(const void* x, int rows, float* y) override {
    SharedTeam::with(threads_, [&](Team& team) {
      const auto* from = static_cast<const Number*>(x);
      const int inputs = matrix_.inputs;
      rows_.resize(rows, inputs);
      for (int64_t row = 0; row < rows; ++row) put_row(rows_, row, 0, from + row * inputs, inputs);
      const typename Format::Matrix* nothing = nullptr;
      team.run([&](int) {
        multiply(team, 0, matrix_, nothing, rows_, rows,
                 [&](int row, int first, int count, const float* sums) {
                   std::copy_n(sums, count, y + static_cast<int64_t>(row) * matrix_.outputs + first);
                 });
      }, 1);
    });
  }

 private:
  Arena arena_;
  typename Format::Matrix matrix_;
  const int threads_;
  typename Format::Rows rows_;
};

template <class Format>
using LinearOfBf16 = LinearOf<Format, bf16>;

}  // namespace
}  // namespace glidecape

using namespace glidecape;

void* glidecape_decoder_create(const GlidecapeShape* shape, const GlidecapeEnds* ends,
                               int32_t quantized, int32_t threads) {
  return created([&] { return make_for<Decoder, DecoderOf>(quantized, *shape, *ends, threads); });
}

bool glidecape_decoder_set_layer(void* decoder, int32_t index, const GlidecapeLayer* layer) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->set_layer(index, *layer); });
}

bool glidecape_decoder_run(void* decoder, const GlidecapeStep* step, const GlidecapeCache* caches,
                           const int64_t* token_ids, uint16_t* hidden) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->run(*step, caches, token_ids, hidden); });
}

void glidecape_decoder_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

void* glidecape_linear_create(const GlidecapeMatrix* weight, int32_t outputs, int32_t inputs,
                              int32_t threads) {
  const int type = weight->parts[0].type;
  return created([&]() -> Linear* {
    if (type == GLIDECAPE_FLOAT)
      return new LinearOf<PlainFormat<float, float>, float>(*weight, outputs, inputs, threads);
    return make_for<Linear, LinearOfBf16>(type != GLIDECAPE_BF16, *weight, outputs, inputs, threads);
  });
}

bool glidecape_linear_run(void* linear, const void* x, int32_t rows, float* y) {
  return succeeds([&] { static_cast<Linear*>(linear)->run(x, rows, y); });
}

void glidecape_linear_destroy(void* linear) { delete static_cast<Linear*>(linear); }

bool glidecape_best(const float* logits, int64_t rows, int64_t width, int64_t* best) {
  for (int64_t row = 0; row < rows; ++row) best[row] = largest_of(logits + row * width, width);
  return true;
}
