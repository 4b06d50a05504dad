// Restores measurements by a package that jpmap_fast.Restorer.export wrote, without Python:
//
//   restore digits.pt2 measured.bin restored.bin [calls]
//
// A file holds the numbers of a tensor one after another, as numpy's tofile writes them. With a
// number of calls it also says how long one takes.
#include <jpmap_fast/restorer.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>

namespace {

at::Tensor measured(const std::string& path, const jpmap_fast::Restorer& restorer) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  auto y = at::empty(restorer.shape(), restorer.dtype());
  if (!file || bytes.size() != y.nbytes()) {
    throw std::runtime_error(path + ": expected " + std::to_string(y.nbytes()) +
                             " bytes of measurements, got " + std::to_string(bytes.size()));
  }
  std::copy(bytes.begin(), bytes.end(), static_cast<char*>(y.data_ptr()));
  return y.to(restorer.device());
}

void restore(const std::string& package, const std::string& in, const std::string& out, int calls) {
  jpmap_fast::Restorer restorer(package);
  const auto y = measured(in, restorer);
  const auto found = restorer(y);
  const auto x = found.x.cpu().contiguous();
  std::ofstream(out, std::ios::binary)
      .write(static_cast<const char*>(x.data_ptr()), static_cast<std::streamsize>(x.nbytes()));
  std::cout.precision(std::numeric_limits<double>::max_digits10);
  for (int64_t image = 0; image < x.size(0); ++image) {
    std::cout << "image " << image << ": objective " << found.objective[image].item<double>()
              << (found.converged[image].item<bool>() ? ", converged" : "") << "\n";
  }
  const auto begin = std::chrono::steady_clock::now();
  for (int call = 0; call < calls; ++call) restorer(y);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
  if (calls > 0) std::cout << "milliseconds a call: " << spent.count() / calls << "\n";
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 4) throw std::runtime_error("restore PACKAGE MEASURED RESTORED [CALLS]");
  restore(arguments[1], arguments[2], arguments[3], count > 4 ? std::stoi(arguments[4]) : 0);
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
