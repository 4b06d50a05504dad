// Every operator of the extension, in one place. Shapes are those of jpmap_fast/kernels;
// README.md of this folder explains the kernels' words.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(jpmap, m) {
  m.def(
      "x_update_diagonal(Tensor decoded, Tensor y, Tensor? weight, Tensor z, Tensor beta, "
      "Tensor sigma) -> (Tensor, Tensor, Tensor)");
  m.def(
      "x_update_spectral(Tensor decoded, Tensor y, Tensor kernel, Tensor z, Tensor beta, "
      "Tensor sigma, int width, int factor) -> (Tensor, Tensor, Tensor)");
  m.def(
      "objective(Tensor x, Tensor decoded, Tensor residual, Tensor z, Tensor beta, Tensor sigma) "
      "-> (Tensor, Tensor)");
  m.def(
      "conjugate_gradient_step(Tensor(a!) x, Tensor(b!) r, Tensor p, Tensor q, Tensor rho, "
      "Tensor active) -> Tensor");
  m.def(
      "conjugate_gradient_direction(Tensor(a!) p, Tensor r, Tensor rho_new, Tensor rho, "
      "Tensor active) -> ()");
  m.def(
      "mlp_gauss_newton(Tensor z, Tensor[] weights, Tensor[] adjoints, Tensor[] tangents, "
      "Tensor[] biases, int[] activations, Tensor target, Tensor weight, Tensor? scale, "
      "Tensor? constant, Tensor? law) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_restore(Tensor z, Tensor[] weights, Tensor[] adjoints, Tensor[] tangents, "
      "Tensor[] biases, int[] activations, Tensor target, Tensor weight, Tensor? scale, "
      "Tensor? constant, Tensor? law, float tolerance, int max_steps, float initial_damping, "
      "bool second_order, Tensor? active, Tensor? known, bool low_latency) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_jpmap(Tensor y, Tensor? mask, Tensor? values, Tensor? lost, Tensor beta, Tensor sigma, "
      "Tensor starts, Tensor[] weights, Tensor[] adjoints, Tensor[] tangents, Tensor[] biases, "
      "int[] activations, Tensor target, Tensor weight, Tensor? scale, Tensor? constant, "
      "Tensor[] decoder_weights, Tensor[] decoder_biases, int[] decoder_activations, "
      "Tensor[] encoder_weights, Tensor[] encoder_biases, int[] encoder_activations, "
      "float tolerance, int max_steps, float initial_damping, bool second_order, int n1, int n2, "
      "int max_iterations, float move, bool again, bool low_latency) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_jpmap_clusters(Tensor y, Tensor[] weights, Tensor[] adjoints, Tensor[] tangents, "
      "Tensor[] biases, int[] activations, Tensor target, Tensor weight, Tensor[] decoder_weights, "
      "Tensor[] decoder_biases, int[] decoder_activations, Tensor[] encoder_weights, "
      "Tensor[] encoder_biases, int[] encoder_activations, int latent) -> int");
  m.def(
      "mlp_log_likelihood(Tensor z, Tensor[] weights, Tensor[] adjoints, Tensor[] tangents, "
      "Tensor[] biases, int[] activations, Tensor target, Tensor weight, Tensor? scale, "
      "Tensor? law) -> Tensor");
  m.def(
      "mlp_log_likelihood_kept(Tensor z, Tensor[] weights, Tensor[] adjoints, Tensor[] tangents, "
      "Tensor[] biases, int[] activations, Tensor target, Tensor weight, Tensor? scale, "
      "Tensor? law, int layer) -> (Tensor, Tensor)");
  m.def("fingerprint(Tensor[] tensors) -> Tensor");
  m.def("weighted_moments(Tensor values, Tensor weights) -> Tensor");
  m.def(
      "student_mixture(Tensor z, Tensor log_weight, Tensor mean, Tensor scale, float degrees, "
      "float defensive) -> Tensor");
  m.def(
      "student_mixture_sums(Tensor z, Tensor weights, Tensor log_weight, Tensor mean, "
      "Tensor scale, float degrees) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "tangent_activation(Tensor t, Tensor? add, Tensor before, Tensor after, Tensor? cotangent, "
      "Tensor(a!)? curvature, int activation, int width, bool t_shuffled, bool add_shuffled) "
      "-> Tensor");
  m.def(
      "damped_solve(Tensor matrix, Tensor? hessian, Tensor gradient, Tensor? damping) "
      "-> (Tensor, Tensor)");
  m.def("linear(Tensor x, Tensor packed, Tensor? bias, int outputs, int activation) -> Tensor");
  m.def("layer(Tensor x, Tensor weight, Tensor? bias, int activation) -> Tensor");
}
