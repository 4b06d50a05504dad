// A restoration that jpmap_fast.Restorer.export wrote, loaded and run without Python.
//
// Programs find it by CMake's find_package(jpmap_fast) and link jpmap_fast::jpmap_fast, or
// jpmap_fast::cuda for packages that were made on a GPU.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <cstdint>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace jpmap_fast {

// What a Result has in Python, for B images. The measurement of an image with NaN or infinity gives
// NaN, and is not converged.
struct Result {
  at::Tensor x;            // [B, C, H, W], restored images
  at::Tensor z;            // [B, k], codes
  at::Tensor decoded;      // [B, C, H, W], G(z)
  at::Tensor objective;    // [B]
  at::Tensor converged;    // [B] bool
  at::Tensor status_code;  // [B] int64, an index of algorithms.STATUS_TEXT
  at::Tensor iterations;   // [B] int64
  at::Tensor candidates;   // [B, 3] int64
  at::Tensor beta;         // [B]
  at::Tensor gap;          // [B]
};

class Restorer {
 public:
  // Loads a package. Convolutions and products of this process are in float32 from then on where
  // tensors are, as a Restorer in Python has them: torch would take tf32 for convolutions on a GPU.
  //
  // Throws std::runtime_error for what is no package, or not one of this version of jpmap_fast and
  // of this minor version of torch.
  explicit Restorer(const std::string& path)
      : package_(loaded(path)), about_(package_->get_metadata()) {
    check_version(path, "jpmap_fast", JPMAP_FAST_VERSION, about("jpmap_fast"));
    // One torch may read the number of a type in a package of another as that of another type.
    const auto torch = about("torch");
    const auto minor =
        std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR);
    check_version(path, "torch", minor, torch.substr(0, torch.find('.', torch.find('.') + 1)));
    std::istringstream sizes(about("measurement_shape"));
    for (int64_t size; sizes >> size;) shape_.push_back(size);
    type_ = about("dtype") == "float64" ? at::kDouble : at::kFloat;
    device_ = about("device") == "cuda" ? at::kCUDA : at::kCPU;
    for (auto backend : {at::Float32Backend::CUDA, at::Float32Backend::MKLDNN}) {
      for (auto op : {at::Float32Op::CONV, at::Float32Op::MATMUL}) {
        at::globalContext().setFloat32Precision(backend, op, at::Float32Precision::IEEE);
      }
    }
  }

  // Restores y, of shape(), dtype() and device(). One call at a time.
  //
  // Throws std::invalid_argument for another tensor, and for measurements that are none of images
  // with pixel values in [0, 1]: on a GPU it waits for the device to know.
  Result operator()(const at::Tensor& y) {
    if (y.sizes() != at::IntArrayRef(shape_) || y.scalar_type() != type_ ||
        y.device().type() != device_) {
      std::ostringstream message;
      message << "y: expected " << at::IntArrayRef(shape_) << ", " << type_ << " on " << device_
              << ", got " << y.sizes() << ", " << y.scalar_type() << " on " << y.device();
      throw std::invalid_argument(message.str());
    }
    auto found = package_->run({y.contiguous()});
    const auto in_range = found.at(10).cpu();
    for (int64_t image = 0; image < in_range.numel(); ++image) {
      if (in_range.data_ptr<bool>()[image]) continue;
      throw std::invalid_argument(
          "y: expected measurements of images with pixel values in [0, 1], and noise of sigma = " +
          about("sigma") + ", got others in image " + std::to_string(image) +
          "; divide by 255 where values are from 0 to 255");
    }
    return {found[0], found[1], found[2], found[3], found[4],
            found[5], found[6], found[7], found[8], found[9]};
  }

  // [B, ...] of measurements, their type and kind of device.
  const std::vector<int64_t>& shape() const { return shape_; }
  at::ScalarType dtype() const { return type_; }
  at::DeviceType device() const { return device_; }

  // What the package says of itself, such as "method", "operator", "sigma", "torch"; "" for a name
  // that it does not know.
  std::string about(const std::string& name) const {
    const auto found = about_.find(name);
    return found == about_.end() ? "" : found->second;
  }

 private:
  using Package = torch::inductor::AOTIModelPackageLoader;

  static std::unique_ptr<Package> loaded(const std::string& path) {
    try {
      return std::make_unique<Package>(path);
    } catch (const c10::Error& error) {
      throw std::runtime_error(path + ": expected a package that Restorer.export wrote, got: " +
                               error.what_without_backtrace());
    }
  }

  static void check_version(const std::string& path, const std::string& of,
                            const std::string& expected, const std::string& got) {
    if (got == expected) return;
    throw std::runtime_error(path + ": expected a package of " + of + " " + expected +
                             ", got one of " + (got.empty() ? "something else" : got));
  }

  std::unique_ptr<Package> package_;
  std::unordered_map<std::string, std::string> about_;
  std::vector<int64_t> shape_;
  at::ScalarType type_;
  at::DeviceType device_;
};

}  // namespace jpmap_fast
