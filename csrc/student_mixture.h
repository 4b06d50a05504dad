// A mixture of Student-t laws of one image's codes, beside a part of the prior N(0, I).
#pragma once

#include <cmath>
#include <cstdint>

namespace jpmap {

// Entries of a code at most on a GPU.
constexpr int kMaxMixtureLatent = 64;

// Log of a Student-t law of scale I at its mean.
inline double log_of_student(double degrees, int64_t latent) {
  return std::lgamma((degrees + latent) / 2) - std::lgamma(degrees / 2) -
         0.5 * latent * std::log(degrees * M_PI);
}

// Log of the prior's part at 0.
inline double log_of_prior(double defensive, int64_t latent) {
  return std::log(defensive) - 0.5 * latent * std::log(2 * M_PI);
}

struct Mixture {
  int64_t components, latent;
  double degrees;
  const bool* used;      // [components]; the others have no part in anything
  const double* height;  // log of w_c t_c at its mean [components]
  const double* mean;    // [components][latent]
  const double* scale;   // lower triangular [components][latent][latent]
  bool has_prior;
  double log_prior, log_rest;  // log of the prior's part at 0, and of what the others are
};

// Where the codes of an image are worked on: numbers of codes one after the other, `stride` of them
// with what fills the last vector up.
struct MixtureRoom {
  int64_t stride;
  double* z;         // [latent][stride]
  double* distance;  // squared, [components][stride]
  double* part;      // log w_c t_c(z) [components][stride]
  double* total;     // log of the sum of these [stride]
  double* step;      // [latent][vector]
  double* sums;      // [latent (latent + 3) / 2][vector]
};

// With s_c = w_c t_c(z) / sum, own = weight s_c and robust = own (degrees + latent) / (degrees +
// distance), per component:
struct MixtureSums {
  double* mass;     // sum of own
  double* squares;  // of own^2
  double* robust;   // of robust
  double* first;    // of robust (z - mean) [latent]
  double* second;   // of robust (z - mean)(z - mean)^T [latent][latent]
};

}  // namespace jpmap
