// All decoder layers of a Llama-family model, or one matrix product, in one call.
#include "decoder.h"

#include <memory>

#include "guard.h"
#include "layers.h"

namespace glidecape {
namespace {

class Decoder {
 public:
  Decoder(const GlidecapeShape& shape, int threads)
      : shape_(shape), threads_(std::max(1, threads)), layers_(shape.num_layers) {}
  virtual ~Decoder() = default;

  void set_layer(int index, const GlidecapeLayer& from) {
    layers_[index] = pack_layer(arena_, shape_, from);
  }

  virtual void run(const GlidecapeStep& step, const GlidecapeCache* caches, float* x) = 0;

 protected:
  const GlidecapeShape shape_;
  const int threads_;
  Arena arena_;
  std::vector<Layer> layers_;
};

template <class X>
class DecoderWith : public Decoder {
 public:
  DecoderWith(const GlidecapeShape& shape, int threads)
      : Decoder(shape, threads), runner_(shape, threads_) {}

  void run(const GlidecapeStep& step, const GlidecapeCache* caches, float* x) override {
    constexpr int kPhases = LayerRunner<X>::kPhases;
    const int count = shape_.num_layers;
    SharedTeam::with(threads_, [&](Team& team) {
      runner_.prepare(step);
      team.run([&](int thread) {
        for (int i = 0; i < count; ++i)
          runner_.run_layer(team, kPhases * i, layers_[i], &layers_[(i + 1) % count].qkv, step,
                            {caches[i].keys, caches[i].values}, x, thread);
      }, kPhases * count);
    });
  }

 private:
  LayerRunner<X> runner_;
};

// A matrix product of its own.
class Linear {
 public:
  Linear(const bf16* weight, int outputs, int inputs, int threads)
      : matrix_(pack(arena_, weight, nullptr, outputs, inputs, [](int i) { return i; })),
        threads_(std::max(1, threads)) {}

  void run(const bf16* x, int rows, float* y) {
    SharedTeam::with(threads_, [&](Team& team) {
      if (!prefers_multiply_add()) return run(team, x, rows, y);
      wide_.resize(static_cast<int64_t>(rows) * matrix_.inputs);
      widen(x, static_cast<int64_t>(wide_.size()), wide_.data());
      run(team, wide_.data(), rows, y);
    });
  }

 private:
  template <class X>
  void run(Team& team, const X* x, int rows, float* y) {
    team.run([&](int) {
      multiply(team, 0, matrix_, nullptr, x, rows, [&](int row, int first, int count, const float* sums) {
        std::copy_n(sums, count, y + static_cast<int64_t>(row) * matrix_.outputs + first);
      });
    }, 1);
  }

  Arena arena_;
  PackedMatrix matrix_;
  const int threads_;
  std::vector<float> wide_;
};

}  // namespace
}  // namespace glidecape

using namespace glidecape;

void* glidecape_decoder_create(const GlidecapeShape* shape, int32_t threads) {
  return created([&]() -> Decoder* {
    if (prefers_multiply_add()) return new DecoderWith<float>(*shape, threads);
    return new DecoderWith<bf16>(*shape, threads);
  });
}

bool glidecape_decoder_set_layer(void* decoder, int32_t index, const GlidecapeLayer* layer) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->set_layer(index, *layer); });
}

bool glidecape_decoder_run(void* decoder, const GlidecapeStep* step, const GlidecapeCache* caches,
                           float* x) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->run(*step, caches, x); });
}

void glidecape_decoder_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

void* glidecape_linear_create(const uint16_t* weight, int32_t outputs, int32_t inputs,
                              int32_t threads) {
  return created([&] { return new Linear(weight, outputs, inputs, threads); });
}

bool glidecape_linear_run(void* linear, const uint16_t* x, int32_t rows, float* y) {
  return succeeds([&] { static_cast<Linear*>(linear)->run(x, rows, y); });
}

void glidecape_linear_destroy(void* linear) { delete static_cast<Linear*>(linear); }
