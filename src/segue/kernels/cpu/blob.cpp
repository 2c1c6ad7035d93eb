#include "blob.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace segue {
namespace {

constexpr char magic[9] = "SegueLin";
constexpr uint32_t version = 1;
constexpr size_t alignment = 64, huge_page = size_t{2} << 20;

size_t aligned(size_t size) { return (size + alignment - 1) / alignment * alignment; }

#if defined(__linux__)

// Zeros, of huge pages: a stream of weights then misses the translation cache 512 times less. They come from the system
// and go back to it, and are touched first by the threads that fill them. The last page, which a block fills only in
// part, is of ordinary ones: it would take 2 MiB, 90 MB over the layers of a model of 1 GB.
std::shared_ptr<std::byte> map_zeros(size_t num_bytes) {
    size_t size = num_bytes + huge_page;
    void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    uintptr_t start = (reinterpret_cast<uintptr_t>(mapped) + huge_page - 1) / huge_page * huge_page;
    std::byte* block = reinterpret_cast<std::byte*>(start);
    madvise(block, num_bytes / huge_page * huge_page, MADV_HUGEPAGE);  // refused: ordinary pages
    return {block, [mapped, size](std::byte*) { munmap(mapped, size); }};
}

#endif

std::shared_ptr<std::byte> allocate(size_t num_bytes) {
#if defined(__linux__)
    if (num_bytes >= huge_page) return map_zeros(num_bytes);
#endif
    void* memory = std::aligned_alloc(alignment, aligned(num_bytes));
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, num_bytes);
    return {static_cast<std::byte*>(memory), [](std::byte* block) { std::free(block); }};
}

// Hands out the arrays behind the header in their order.
class Arrays {
  public:
    explicit Arrays(const std::byte* blob) : next_(blob + sizeof(BlobHeader)) {}

    template <class T>
    const T* take(size_t size) {
        const std::byte* array = next_;
        next_ += aligned(size);
        return size == 0 ? nullptr : reinterpret_cast<const T*>(array);
    }

  private:
    const std::byte* next_;
};

size_t bytes_of(const BlobSizes& sizes) {
    return sizeof(BlobHeader) + aligned(sizes.data) + aligned(sizes.scales) + aligned(sizes.half_scales) +
           aligned(sizes.zeros) + aligned(sizes.table) + aligned(sizes.bias) + aligned(sizes.permutation);
}

Packed view(const std::byte* blob, std::shared_ptr<const void> memory) {
    BlobHeader header;
    std::memcpy(&header, blob, sizeof header);
    Linear linear{};
    linear.kind = static_cast<WeightKind>(header.kind);
    linear.n = header.n;
    linear.k = header.k;
    linear.group = header.group;
    linear.gated = header.gated != 0;
    Arrays arrays(blob);
    linear.data = arrays.take<std::byte>(header.sizes.data);
    linear.scales = arrays.take<float>(header.sizes.scales);
    linear.half_scales = arrays.take<uint16_t>(header.sizes.half_scales);
    linear.zeros = arrays.take<uint8_t>(header.sizes.zeros);
    linear.table = arrays.take<float>(header.sizes.table);
    linear.bias = arrays.take<float>(header.sizes.bias);
    linear.permutation = arrays.take<int32_t>(header.sizes.permutation);
    linear.memory = std::move(memory);
    return {linear, blob, header.num_bytes};
}

}  // namespace

Packed new_blob(WeightKind kind, int64_t n, int64_t k, int64_t group, bool gated, const BlobSizes& sizes) {
    BlobHeader header{};
    std::memcpy(header.magic, magic, sizeof header.magic);
    header.version = version;
    header.kind = static_cast<uint8_t>(kind);
    header.gated = gated;
    header.n = n;
    header.k = k;
    header.group = group;
    header.sizes = sizes;
    header.num_bytes = bytes_of(sizes);
    std::shared_ptr<std::byte> memory = allocate(header.num_bytes);
    std::memcpy(memory.get(), &header, sizeof header);
    return view(memory.get(), memory);
}

Packed packed_of(const std::byte* bytes, size_t num_bytes, std::shared_ptr<const void> memory) {
    BlobHeader header;
    if (num_bytes < sizeof header) throw std::invalid_argument("a packed weight is longer than this");
    std::memcpy(&header, bytes, sizeof header);
    if (std::memcmp(header.magic, magic, sizeof header.magic) != 0 || header.version != version)
        throw std::invalid_argument("not a packed weight of this version");
    if (header.num_bytes > num_bytes || header.num_bytes != bytes_of(header.sizes))
        throw std::invalid_argument("a packed weight that is cut off");
    if (reinterpret_cast<uintptr_t>(bytes) % alignment != 0)
        throw std::invalid_argument("a packed weight must lie at a multiple of 64 bytes");
    return view(bytes, std::move(memory));
}

}  // namespace segue
