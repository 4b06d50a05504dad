// The whole method for an MLP prior: encoder, descents, x-updates, choice of candidates and starts.
//
// A worker holds a few tasks, (image, start), and takes further ones from a queue. jpmap_task.h
// says what a task does next; the worker does what several of them wait for together: descents,
// passes of the encoder, passes of the decoder with x-update and J1. No bit depends on who waits
// with whom.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <memory>

#include "cpu/joint_point.h"
#include "cpu/mlp_descent.h"

namespace jpmap {
namespace {

// Tasks beyond those that descend: so many wait to pass through encoder or decoder together.
constexpr int64_t kTogether = 8;

template <class T>
struct JointOut {
  T *x, *z, *decoded, *objective, *gap;
  int64_t *status, *iterations, *candidates;
};

// What all workers share.
template <class T>
struct JointRun {
  const JointData<T>& data;
  const Mlp<T>& mlp;      // of the descents
  const Mlp<T>& encoder;  // without layers where it is not asked
  const MlpMeasurement& measurement;
  const DescentSettings& descent;
  const TaskSettings& settings;
  const JointOut<T>& out;
  std::atomic<int64_t> next{0};
  std::vector<TaskEnd> best;            // [B]; start -1 where none has ended
  std::vector<std::atomic_flag> locks;  // [B]

  bool encodes(int64_t start) const { return encoder.count > 0 && start == 0; }
};

template <class T>
struct HeldTask {
  Task task;
  int64_t image, start;
  bool begun;      // the state is known
  bool converged;  // whether the descent to `found` ended by itself
  JointPoint<T> state, found;
};

template <class T>
class JointWorker {
 public:
  JointWorker(JointRun<T>& run, int64_t capacity)
      : run_(run),
        tile_(run.mlp, run.measurement, run.descent, capacity),
        weighing_(run.data),
        held_(capacity + kTogether) {
    for (auto& held : held_) {
      held.state.resize(run.data.sizes);
      held.found.resize(run.data.sizes);
      free_.push_back(&held - held_.data());
    }
  }

  void run() {
    for (;;) {
      while (!free_.empty() && take()) continue;
      if (free_.size() == held_.size()) return;
      const int64_t waiting = static_cast<int64_t>(weigh_.size() + encode_.size());
      if (waiting >= kTogether || (ready_.empty() && !tile_.full())) {
        weigh();
        encode();
      }
      while (!ready_.empty() && !tile_.full()) {
        HeldTask<T>& held = held_[ready_.back()];
        const bool proposed = held.task.trying == 2;
        const T* state = held.state.z.data();
        tile_.begin(ready_.back(), held.image, proposed ? held.found.z.data() : state,
                    knows_minimum(held.task) ? state : nullptr);
        ready_.pop_back();
      }
      if (tile_.active() > 0) tile_.step([&](const Descent& descent) { descended(descent); });
    }
  }

 private:
  bool take() {
    const JointSizes& sizes = run_.data.sizes;
    const int64_t number = run_.next.fetch_add(1);
    if (number >= sizes.batch * sizes.starts) return false;
    HeldTask<T>& held = held_[free_.back()];
    held.image = number / sizes.starts;
    held.start = number % sizes.starts;
    held.begun = false;
    std::copy_n(run_.data.start_of(held.image, held.start), sizes.latent, held.found.z.data());
    weigh_.push_back(free_.back());
    free_.pop_back();
    return true;
  }

  void descended(const Descent& descent) {
    HeldTask<T>& held = held_[descent.owner];
    held.converged = descent.converged;
    for (size_t c = 0; c < descent.z.size(); ++c) held.found.z[c] = static_cast<T>(descent.z[c]);
    weigh_.push_back(descent.owner);
  }

  // Every waiting candidate gets its x and J1, and is taken or not.
  void weigh() {
    points_.clear();
    for (const int64_t number : weigh_) {
      HeldTask<T>& held = held_[number];
      const bool published = !held.begun && run_.encodes(held.start);
      points_.push_back({&held.found, held.image, published});
    }
    if (points_.empty()) return;
    weighing_.run(points_);
    weighed_.swap(weigh_);
    weigh_.clear();
    for (const int64_t number : weighed_) {
      HeldTask<T>& held = held_[number];
      const double objective = held.found.objective;
      if (!held.begun) {
        held.begun = true;
        std::swap(held.state, held.found);
        go_on(number, begin_task(held.task, run_.settings, run_.encodes(held.start), objective));
        continue;
      }
      const bool taken = falls(objective, held.task.objective);
      const double moved = distance(held.state, held.found);
      const TaskWork work = weighed(held.task, run_.settings, objective, moved, held.converged);
      if (taken) std::swap(held.state, held.found);
      go_on(number, work);
    }
  }

  void encode() {
    const int64_t n = run_.data.sizes.pixels, rows = static_cast<int64_t>(encode_.size());
    if (rows == 0) return;
    rows_.resize(rows * n);
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(held_[encode_[i]].state.x.data(), n, rows_.data() + i * n);
    }
    const T* codes = passes_.run(run_.encoder, rows_.data(), n, rows);
    const int64_t stride = run_.encoder.layers[run_.encoder.count - 1].stride;
    encoded_.swap(encode_);
    encode_.clear();
    for (int64_t i = 0; i < rows; ++i) {
      HeldTask<T>& held = held_[encoded_[i]];
      std::copy_n(codes + i * stride, run_.data.sizes.latent, held.found.z.data());
      held.converged = false;
      go_on(encoded_[i], encoded(held.task, run_.settings));
    }
  }

  void go_on(int64_t number, TaskWork work) {
    switch (work) {
      case TaskWork::kEncode:
        return encode_.push_back(number);
      case TaskWork::kWeigh:
        return weigh_.push_back(number);
      case TaskWork::kDescendFromCode:
      case TaskWork::kDescendFromState:
        return ready_.push_back(number);
      case TaskWork::kProve:
        proved(held_[number].task, promised(held_[number]));
        break;
      case TaskWork::kEnd:
        break;
    }
    write(held_[number]);
    free_.push_back(number);
  }

  // By how much a Newton step lowers J1, if the model is right.
  double promised(const HeldTask<T>& held) const {
    const Mlp<T>& mlp = run_.mlp;
    const int64_t k = mlp.latent, only = 0;
    MlpWorkspace<T> workspace(mlp, 1);
    const MlpTarget<T> target = target_of<T>(run_.measurement, held.image, mlp.outputs);
    std::vector<double> gradient(k), matrix(k * k), hessian(k * k), step(k);
    double *g = gradient.data(), *m = matrix.data(), *h = hessian.data(), value = 0, decrement = 0;
    std::copy_n(held.state.z.data(), k, workspace.tile.z);
    isa_kernels<T>().mlp_forward(mlp, &target, 1, workspace.tile, &value);
    mlp_system(mlp, &only, 1, true, workspace.tile, &g, &m, &h);
    DampedSolver solver(k);
    solver.choose(m, h, 0, g, step.data());
    for (int64_t c = 0; c < k; ++c) decrement += g[c] * step[c];
    return 0.5 * decrement;
  }

  // The end of a task, where it is the best of its image so far.
  void write(const HeldTask<T>& held) {
    const auto& [data, out] = std::tie(run_.data, run_.out);
    const int64_t n = data.sizes.pixels, k = data.sizes.latent, image = held.image;
    const TaskEnd end{held.task.objective, held.task.status, held.start};
    while (run_.locks[image].test_and_set(std::memory_order_acquire)) continue;
    if (run_.best[image].start < 0 || precedes(end, run_.best[image])) {
      run_.best[image] = end;
      std::copy_n(held.state.x.data(), n, out.x + image * n);
      std::copy_n(held.state.z.data(), k, out.z + image * k);
      std::copy_n(held.state.decoded.data(), n, out.decoded + image * n);
      out.objective[image] = held.state.objective;
      out.gap[image] = held.state.gap;
      out.status[image] = held.task.status;
      out.iterations[image] = held.task.iterations;
      std::copy_n(held.task.candidates, 3, out.candidates + image * 3);
    }
    run_.locks[image].clear(std::memory_order_release);
  }

  JointRun<T>& run_;
  DescentTile<T> tile_;
  Weighing<T> weighing_;
  Passes<T> passes_;
  std::vector<HeldTask<T>> held_;
  std::vector<int64_t> free_;                    // places without a task
  std::vector<int64_t> weigh_, encode_, ready_;  // what the others wait for
  std::vector<int64_t> weighed_, encoded_;
  std::vector<Unweighed<T>> points_;
  std::vector<T> rows_;
};

struct ForwardNetwork {
  const Tensors& packed;
  const Tensors& biases;
  const Integers& activations;
};

template <class T>
void solve(const JointMeasurement& m, const JointSizes& sizes, const MlpMeasurement& measurement,
           const Network& network, const ForwardNetwork& decoder, const ForwardNetwork& encoder,
           const DescentSettings& descent, const TaskSettings& settings, const JointOut<T>& out) {
  const int64_t tasks = sizes.batch * sizes.starts;
  const auto mlp = mlp_of<T>(network, sizes.latent, measurement.target.size(1));
  const auto asked = forward_of<T>(encoder.packed, encoder.biases, encoder.activations);
  auto data = joint_data<T>(m, sizes, measurement.target);
  data.decoder = forward_of<T>(decoder.packed, decoder.biases, decoder.activations);
  data.map = mlp.layers[mlp.count - 1];
  JointRun<T> run{data,
                  mlp,
                  asked,
                  measurement,
                  descent,
                  settings,
                  out,
                  {0},
                  std::vector<TaskEnd>(sizes.batch, TaskEnd{0, 0, -1}),
                  std::vector<std::atomic_flag>(sizes.batch)};
  const int64_t capacity = tile_images(tasks, sizes.latent, worker_count());
  on_every_worker(tasks, [&] { JointWorker<T>(run, capacity).run(); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mlp_jpmap(
    Tensor y, std::optional<Tensor> mask, std::optional<Tensor> values, std::optional<Tensor> lost,
    Tensor beta, Tensor sigma, Tensor starts, Tensors weights, Tensors adjoints, Tensors tangents,
    Tensors biases, Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, Tensors decoder_weights, Tensors decoder_biases,
    Integers decoder_activations, Tensors encoder_weights, Tensors encoder_biases,
    Integers encoder_activations, double tolerance, int64_t max_steps, double initial_damping,
    bool second_order, int64_t n1, int64_t n2, int64_t max_iterations, double move, bool again,
    bool /*low_latency*/) {
  constexpr const char* op = "mlp_jpmap";
  const JointMeasurement joint{y, mask, values, lost, beta, sigma, starts};
  const JointSizes sizes = check_joint(op, joint, target.dim() == 2 ? target.size(1) : 0);
  const bool encodes = !encoder_weights.empty();
  const auto settings = check_task(op, n1, n2, max_iterations, move, again, encodes, sizes.starts);
  Tensor z = torch::stable::new_empty(y, {sizes.batch, sizes.latent});
  const std::optional<Tensor> no_law;
  const MlpMeasurement measurement{target, weight, scale, constant, no_law};
  check_mlp_panels(op, z, weights, adjoints, tangents, biases, activations, measurement);
  check_forward_panels(op, "decoder", y, decoder_weights, decoder_biases, decoder_activations,
                       sizes.latent, sizes.pixels);
  if (encodes) {
    check_forward_panels(op, "encoder", y, encoder_weights, encoder_biases, encoder_activations,
                         sizes.pixels, sizes.latent);
  }
  if (values.has_value()) {
    STD_TORCH_CHECK(weights.back().size(1) == sizes.pixels && !scale.has_value(), op,
                    ": expected a last layer that measures the image, without a scale");
  }
  Tensor x = torch::stable::empty_like(y), decoded = torch::stable::empty_like(y);
  Tensor objective = torch::stable::empty_like(beta), gap = torch::stable::empty_like(beta);
  const auto whole = torch::headeronly::ScalarType::Long;
  Tensor status = torch::stable::new_empty(y, {sizes.batch}, whole);
  Tensor iterations = torch::stable::new_empty(y, {sizes.batch}, whole);
  Tensor candidates = torch::stable::new_empty(y, {sizes.batch, 3}, whole);
  dispatch_floating(op, y, [&](auto zero) {
    using T = decltype(zero);
    solve<T>(joint, sizes, measurement, {weights, adjoints, tangents, biases, activations},
             {decoder_weights, decoder_biases, decoder_activations},
             {encoder_weights, encoder_biases, encoder_activations},
             {tolerance, max_steps, initial_damping, second_order}, settings,
             {write<T>(x), write<T>(z), write<T>(decoded), write<T>(objective), write<T>(gap),
              write<int64_t>(status), write<int64_t>(iterations), write<int64_t>(candidates)});
  });
  return {x, z, decoded, objective, gap, status, iterations, candidates};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) { m.impl("mlp_jpmap", TORCH_BOX(&mlp_jpmap)); }

}  // namespace jpmap
