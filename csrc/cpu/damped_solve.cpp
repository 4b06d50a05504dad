// Damped k x k systems of a batch, each by Cholesky in double; see cuda/damped_solve.cu.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cpu/damped_step.h"
#include "cpu/parallel.h"

namespace jpmap {
namespace {

template <class T>
void solve_all(const DampedSizes& sizes, const T* matrix, const T* hessian, const T* gradient,
               const double* damping, double* solution, float* shares) {
  const int64_t k = sizes.latent;
  for_each_item(sizes.batch, k * k * k / 3, [&](int64_t b) {
    DampedSolver solver(k);
    const auto system_of = [&](const T* source) {
      return std::vector<double>(source + b * k * k, source + (b + 1) * k * k);
    };
    std::vector<double> system = system_of(matrix);
    const std::vector<double> g(gradient + b * k, gradient + (b + 1) * k);
    const double mu = damping == nullptr ? 0 : damping[b];
    double* x = solution + b * k;
    shares[b] = 0;
    if (hessian != nullptr) {
      shares[b] = solver.choose(system.data(), system_of(hessian).data(), mu, g.data(), x);
    } else if (!solver.solve(system.data(), mu, g.data(), x)) {
      std::fill(x, x + k, std::nan(""));
    }
  });
}

std::tuple<Tensor, Tensor> damped_solve(Tensor matrix, std::optional<Tensor> hessian,
                                        Tensor gradient, std::optional<Tensor> damping) {
  const DampedSizes sizes = check_damped_solve(matrix, hessian, gradient, damping);
  auto [solution, share] = damped_results(sizes, matrix);
  dispatch_floating("damped_solve", matrix, [&](auto zero) {
    using T = decltype(zero);
    solve_all<T>(sizes, read<T>(matrix), hessian.has_value() ? read<T>(*hessian) : nullptr,
                 read<T>(gradient), damping.has_value() ? read<double>(*damping) : nullptr,
                 write<double>(solution), write<float>(share));
  });
  return {solution, share};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) { m.impl("damped_solve", TORCH_BOX(&damped_solve)); }

}  // namespace jpmap
