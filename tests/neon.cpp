// The CPU's kernels of an instruction set alone, without torch, against plain loops. Exit status 1
// and a line each for what differs; test_neon.py compiles it for ARM and runs it.
#define JPMAP_ISA baseline
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cpu/isa/table.h"
#include "cpu/mlp_workspace.h"

namespace jpmap {
namespace {

std::mt19937 generator(1);
int failures = 0;

double draw() { return std::normal_distribution<double>()(generator); }

template <class T>
std::vector<T> drawn(int64_t count, double scale = 1) {
  std::vector<T> found(count);
  for (auto& value : found) value = static_cast<T>(scale * draw());
  return found;
}

void expect(bool holds, const char* what, int64_t first, int64_t second) {
  if (holds) return;
  ++failures;
  std::printf("%s: %lld, %lld\n", what, static_cast<long long>(first),
              static_cast<long long>(second));
}

template <class T>
constexpr int64_t kWidth = kPanelBytes / static_cast<int64_t>(sizeof(T));

// Every element is one chain of fused multiply-adds over ascending k, whatever rows and panels pass
// together.
template <class T>
void products(const IsaKernels<T>& kernels) {
  for (const int64_t rows : {1, 2, 3, 4, 7, 13}) {
    for (const int64_t panels : {1, 3, 4, 9}) {
      const int64_t depth = 17 * rows, columns = panels * kWidth<T>;
      const auto x = drawn<T>(rows * depth), packed = drawn<T>(panels * depth * kWidth<T>);
      std::vector<T> out(rows * columns);
      kernels.multiply_panels(x.data(), depth, packed.data(), depth, rows, panels, out.data(),
                              columns);
      bool same = true;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t column = 0; column < columns; ++column) {
          const T* panel = packed.data() + column / kWidth<T> * depth * kWidth<T>;
          T sum = 0;
          for (int64_t k = 0; k < depth; ++k) {
            sum = std::fma(x[row * depth + k], panel[k * kWidth<T> + column % kWidth<T>], sum);
          }
          same = same && sum == out[row * columns + column];
        }
      }
      expect(same, "product of rows, panels", rows, panels);
    }
  }
}

// f of 5 - 37 - 40 - 33 units, tanh and sigmoid, in double without any of the kernels.
template <class T>
struct Plain {
  static constexpr int sizes[] = {5, 37, 40, 33};
  std::vector<T> weight[3], bias[3];
  T target = T(0.4), precision = T(3);

  std::vector<double> outputs(const std::vector<double>& z) const {
    std::vector<double> h = z;
    for (int l = 0; l < 3; ++l) {
      std::vector<double> next(sizes[l + 1]);
      for (int j = 0; j < sizes[l + 1]; ++j) {
        double sum = bias[l][j];
        for (int i = 0; i < sizes[l]; ++i) sum += weight[l][j * sizes[l] + i] * h[i];
        next[j] = l == 2 ? 1 / (1 + std::exp(-sum)) : std::tanh(sum);
      }
      h = next;
    }
    return h;
  }
  double operator()(const std::vector<double>& z) const {
    double sum = 0;
    for (const double out : outputs(z)) sum += precision * (target - out) * (target - out);
    for (const double c : z) sum += c * c;
    return sum / 2;
  }
};

// Decode, way back and matrices against central differences.
template <class T>
void network(const IsaKernels<T>& kernels) {
  constexpr int k = 5, outputs = 33;
  constexpr double step = 1e-4, tolerance = 1e-3;
  Plain<T> f;
  std::vector<T> packed[3], adjoint[3];
  Mlp<T> mlp{};
  mlp.count = 3;
  mlp.latent = k;
  mlp.outputs = outputs;
  const auto padded = [](int64_t size) { return (size + kWidth<T> - 1) / kWidth<T> * kWidth<T>; };
  for (int l = 0; l < 3; ++l) {
    const int64_t in = f.sizes[l], out = f.sizes[l + 1];
    f.weight[l] = drawn<T>(out * in, 1 / std::sqrt(in));
    f.bias[l] = drawn<T>(out, 0.3);
    f.bias[l].resize(padded(out));
    packed[l].resize(padded(out) * in);
    adjoint[l].resize(padded(in) * out);
    for (int64_t j = 0; j < out; ++j) {
      for (int64_t i = 0; i < in; ++i) {
        const T w = f.weight[l][j * in + i];
        packed[l][(j / kWidth<T> * in + i) * kWidth<T> + j % kWidth<T>] = w;
        adjoint[l][(i / kWidth<T> * out + j) * kWidth<T> + i % kWidth<T>] = w;
      }
    }
    mlp.layers[l] = {packed[l].data(),
                     adjoint[l].data(),
                     f.bias[l].data(),
                     in,
                     out,
                     padded(out),
                     l == 2 ? Activation::kSigmoid : Activation::kTanh};
  }
  const std::vector<T> target(outputs, f.target), weight(outputs, f.precision);
  const MlpTarget<T> compared{target.data(), weight.data(), nullptr, nullptr, false, 0};
  MlpWorkspace<T> workspace(mlp, 1);
  std::vector<double> z(k);
  for (int c = 0; c < k; ++c) z[c] = workspace.tile.z[c] = static_cast<T>(0.5 * draw());
  double objective, gradient[k], matrix[k * k], hessian[k * k];
  double *g = gradient, *m = matrix, *h = hessian;
  const int64_t only = 0;
  kernels.mlp_forward(mlp, &compared, 1, workspace.tile, &objective);
  kernels.mlp_backward(mlp, &only, 1, workspace.tile, &g);
  kernels.mlp_curvature(mlp, &only, 1, true, workspace.tile, &m, &h);
  expect(std::fabs(objective - f(z)) < 1e-5 * objective, "objective", 0, 0);
  const auto moved = [&](int a, double by, int b = 0, double also = 0) {
    std::vector<double> to = z;
    to[a] += by;
    to[b] += also;
    return to;
  };
  for (int a = 0; a < k; ++a) {
    const double slope = (f(moved(a, step)) - f(moved(a, -step))) / (2 * step);
    expect(std::fabs(slope - gradient[a]) < tolerance, "gradient", a, a);
    const auto up = f.outputs(moved(a, step)), down = f.outputs(moved(a, -step));
    for (int b = 0; b < k; ++b) {
      const double bend = (f(moved(a, step, b, step)) - f(moved(a, step, b, -step)) -
                           f(moved(a, -step, b, step)) + f(moved(a, -step, b, -step))) /
                          (4 * step * step);
      expect(std::fabs(bend - hessian[a * k + b]) < tolerance, "Hessian", a, b);
      const auto left = f.outputs(moved(b, step)), right = f.outputs(moved(b, -step));
      double sum = a == b;
      for (int j = 0; j < outputs; ++j) {
        sum += f.precision * (up[j] - down[j]) * (left[j] - right[j]) / (4 * step * step);
      }
      expect(std::fabs(sum - matrix[a * k + b]) < tolerance, "matrix", a, b);
    }
  }
}

}  // namespace
}  // namespace jpmap

int main() {
  jpmap::products(jpmap::baseline::kFloatKernels);
  jpmap::products(jpmap::baseline::kDoubleKernels);
  jpmap::network(jpmap::baseline::kFloatKernels);
  jpmap::network(jpmap::baseline::kDoubleKernels);
  std::printf("%d rows, %s\n", jpmap::baseline::kTileRows, jpmap::isa_name());
  return jpmap::failures > 0;
}
