// Points (x, z) of J1 and how a worker of mlp_jpmap gets from one to the next on the CPU.
#pragma once

#include "cpu/mlp_passes.h"
#include "cpu/pixels.h"
#include "jpmap_arguments.h"

namespace jpmap {

// What a batch is made of; see JointMeasurement.
template <class T>
struct JointData {
  JointSizes sizes;
  const T *y, *mask, *values, *lost, *beta, *sigma, *starts;
  const T* target;   // [B, p]; of a projected data term U^T y
  Mlp<T> decoder;    // G whole
  MlpLayer<T> map;   // H, of a projected data term
  int64_t measured;  // p

  const T* mask_of(int64_t image) const {
    return mask == nullptr ? nullptr : mask + (sizes.mask_each ? image * sizes.pixels : 0);
  }
  const T* start_of(int64_t image, int64_t start) const {
    return starts + ((sizes.starts_each ? image * sizes.starts : 0) + start) * sizes.latent;
  }
};

template <class T>
JointData<T> joint_data(const JointMeasurement& m, const JointSizes& sizes, const Tensor& target) {
  const auto given = [](const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? read<T>(*tensor) : nullptr;
  };
  return {sizes,
          read<T>(m.y),
          given(m.mask),
          given(m.values),
          given(m.lost),
          read<T>(m.beta),
          read<T>(m.sigma),
          read<T>(m.starts),
          read<T>(target),
          {},
          {},
          target.size(1)};
}

template <class T>
struct JointPoint {
  std::vector<T> x, z, decoded;
  T objective, gap;

  void resize(const JointSizes& sizes) {
    x.resize(sizes.pixels);
    z.resize(sizes.latent);
    decoded.resize(sizes.pixels);
  }
};

// ||dx|| / sqrt(n) + ||dz|| / sqrt(k)
template <class T>
double distance(const JointPoint<T>& a, const JointPoint<T>& b) {
  const auto apart = [](const std::vector<T>& one, const std::vector<T>& other) {
    const int64_t size = static_cast<int64_t>(one.size());
    return std::sqrt(squares(one.data(), other.data(), size) / static_cast<double>(size));
  };
  return apart(a.x, b.x) + apart(a.z, b.z);
}

// A point whose z is known, to be completed.
template <class T>
struct Unweighed {
  JointPoint<T>* point;
  int64_t image;
  bool published;  // with x = A^T y, as the published method begins; otherwise with the best x
};

// Completes points: the network's passes together, the rest image by image.
template <class T>
class Weighing {
 public:
  explicit Weighing(const JointData<T>& data) : data_(data) {}

  void run(const std::vector<Unweighed<T>>& points) {
    const int64_t n = data_.sizes.pixels, k = data_.sizes.latent;
    const int64_t rows = static_cast<int64_t>(points.size());
    rows_.resize(rows * k);
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(points[i].point->z.data(), k, rows_.data() + i * k);
    }
    const T* decoded = passes_.run(data_.decoder, rows_.data(), k, rows);
    const int64_t stride = data_.decoder.layers[data_.decoder.count - 1].stride;
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(decoded + i * stride, n, points[i].point->decoded.data());
      if (points[i].published) publish(points[i]);
    }
    if (data_.values != nullptr) {
      project(points);
    } else {
      for (const auto& unweighed : points) update(unweighed);
    }
  }

 private:
  // x = A^T y.
  void publish(const Unweighed<T>& to) const {
    const int64_t n = data_.sizes.pixels;
    const T* y = data_.y + to.image * n;
    const T* mask = data_.mask_of(to.image);
    for (int64_t j = 0; j < n; ++j) to.point->x[j] = mask == nullptr ? y[j] : mask[j] * y[j];
  }

  // A diagonal A.
  void update(const Unweighed<T>& to) {
    JointPoint<T>& p = *to.point;
    const int64_t n = data_.sizes.pixels, k = data_.sizes.latent, image = to.image;
    const T beta = data_.beta[image], sigma = data_.sigma[image];
    const T* y = data_.y + image * n;
    const T* mask = data_.mask_of(image);
    if (to.published) {
      residual_.resize(n);
      for (int64_t j = 0; j < n; ++j) {
        const T measured = mask == nullptr ? p.x[j] : mask[j] * p.x[j];
        residual_[j] = y[j] - measured;
      }
      given(p, residual_.data(), n, beta, sigma);
      return;
    }
    const double s = sigma;
    const T noise = static_cast<T>(beta * s * s);
    UpdateSums total{0, 0};
    for_each_chunk(n, [&](int64_t begin, int64_t count) {
      const UpdateSums sums = update_chunk(p.decoded.data() + begin, y + begin,
                                           mask == nullptr ? nullptr : mask + begin,
                                           p.x.data() + begin, count, noise, !std::isinf(beta));
      total.weighted += sums.weighted;
      total.gap += sums.gap;
    });
    p.objective = objective_updated(total, beta, sigma, p.z.data(), k);
    p.gap = static_cast<T>(total.gap);
  }

  // A = U H: a division in the coordinates of U, see jpmap_fast/operators/spectral.py.
  void project(const std::vector<Unweighed<T>>& points) {
    const auto& [n, p, q] = std::tuple{data_.sizes.pixels, data_.measured, data_.sizes.lost};
    const int64_t rows = static_cast<int64_t>(points.size());
    const MlpLayer<T>& map = data_.map;
    rows_.resize(rows * n);
    for (int64_t i = 0; i < rows; ++i) {
      const JointPoint<T>& from = *points[i].point;
      std::copy_n((points[i].published ? from.x : from.decoded).data(), n, rows_.data() + i * n);
    }
    measured_.resize(rows * map.stride);
    multiply_rows(rows_.data(), n, map.packed, n, rows, measured_.data(), map.stride);
    gain_.resize(rows * p);
    residual_.resize(rows * (p + q));
    for (int64_t i = 0; i < rows; ++i) divide(points[i], i);
    constexpr int64_t width = kPanelBytes / static_cast<int64_t>(sizeof(T));
    const int64_t columns = (n + width - 1) / width * width;
    rows_.resize(rows * columns);
    multiply_rows(gain_.data(), p, map.adjoint, p, rows, rows_.data(), columns);
    for (int64_t i = 0; i < rows; ++i) {
      JointPoint<T>& to = *points[i].point;
      const int64_t image = points[i].image;
      if (!points[i].published) {
        for (int64_t j = 0; j < n; ++j) to.x[j] = to.decoded[j] + rows_[i * columns + j];
      }
      given(to, residual_.data() + i * (p + q), p + q, data_.beta[image], data_.sigma[image]);
    }
  }

  // Gain and residual of row i; of x = A^T y the residual alone.
  void divide(const Unweighed<T>& of, int64_t i) {
    const int64_t p = data_.measured, q = data_.sizes.lost, image = of.image;
    const T* values = data_.values + (data_.sizes.values_each ? image * p : 0);
    const T noise = data_.beta[image] * (data_.sigma[image] * data_.sigma[image]);
    T* gain = gain_.data() + i * p;
    T* residual = residual_.data() + i * (p + q);
    for (int64_t j = 0; j < p; ++j) {
      const T innovation = data_.target[image * p + j] - measured_[i * data_.map.stride + j];
      gain[j] = innovation / (values[j] + noise);
      residual[j] = of.published ? innovation : innovation - values[j] * gain[j];
    }
    if (q > 0) std::copy_n(data_.lost + image * q, q, residual + p);
  }

  // J1 and gap of a point with this residual.
  void given(JointPoint<T>& p, const T* residual, int64_t size, T beta, T sigma) const {
    const double coupling = squares(p.x.data(), p.decoded.data(), data_.sizes.pixels);
    const double data = squares(residual, static_cast<const T*>(nullptr), size);
    p.objective = objective_given(coupling, data, beta, sigma, p.z.data(), data_.sizes.latent);
    p.gap = static_cast<T>(coupling);
  }

  const JointData<T>& data_;
  Passes<T> passes_;
  std::vector<T> rows_, measured_, gain_, residual_;
};

}  // namespace jpmap
