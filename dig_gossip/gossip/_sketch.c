/* Sketch arithmetic, compiled: the functions of sketch_pure.py, with the same results.
 *
 * GF(2^64) modulo x^64 + x^4 + x^3 + x + 1. Polynomials are arrays of elements, the constant first.
 * All the work is done by four operations, of which there are two forms: one with the processor's
 * carry-less multiplication, and a portable one. What decoding does, and why, is said there.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAS_CARRYLESS 1
#include <immintrin.h>
#else
#define HAS_CARRYLESS 0
#endif

#define MAX_CAPACITY 1024
#define MAX_TRACES 128
#define MAX_TABULATED 128 /* elements; tables for so many take 2 MiB */
#define BITS 64

typedef uint64_t element;

typedef struct {
    element (*multiply)(element a, element b);
    element (*square)(element a);
    /* the sum of a[i] * b[-i] */
    element (*dot)(const element *a, const element *b, size_t count);
    /* target[i] += factor * source[i]; the two do not overlap */
    void (*add_scaled)(element *target, const element *source, size_t count, element factor);
    int uses_tables; /* whether add_combined beats add_scaled for rows that are used often */
} arithmetic;

/* --- elements, portably -------------------------------------------------------------------- */

static inline element
reduce(uint64_t high, uint64_t low)
{
    /* x^64 = x^4 + x^3 + x + 1, and once more for the four bits that this moves above x^64 */
    uint64_t above = (high >> 63) ^ (high >> 61) ^ (high >> 60);
    high ^= above;
    return low ^ high ^ (high << 1) ^ (high << 3) ^ (high << 4);
}

static inline element
times_x(element a)
{
    return (a << 1) ^ ((element)27 & (0 - (a >> 63)));
}

/* The multiples of a by every polynomial of four bits. */
static inline void
multiples(element a, element table[16])
{
    table[0] = 0;
    for (int bit = 0; bit < 4; bit++) {
        for (int index = 0; index < 1 << bit; index++) {
            table[(1 << bit) + index] = table[index] ^ a;
        }
        a = times_x(a);
    }
}

static element
multiply_portable(element a, element b)
{
    element table[16];
    multiples(a, table);
    element product = 0;
    for (int shift = 60; shift >= 0; shift -= 4) {
        product = reduce(product >> 60, product << 4) ^ table[(b >> shift) & 15];
    }
    return product;
}

/* Put a zero after each of 32 bits. */
static inline uint64_t
spread(uint64_t bits)
{
    bits = (bits | bits << 16) & 0x0000FFFF0000FFFFu;
    bits = (bits | bits << 8) & 0x00FF00FF00FF00FFu;
    bits = (bits | bits << 4) & 0x0F0F0F0F0F0F0F0Fu;
    bits = (bits | bits << 2) & 0x3333333333333333u;
    return (bits | bits << 1) & 0x5555555555555555u;
}

static element
square_portable(element a)
{
    return reduce(spread(a >> 32), spread(a & 0xFFFFFFFFu));
}

static element
dot_portable(const element *a, const element *b, size_t count)
{
    element sum = 0;
    for (size_t index = 0; index < count; index++) {
        sum ^= multiply_portable(a[index], *(b - index));
    }
    return sum;
}

static void
add_scaled_portable(element *target, const element *source, size_t count, element factor)
{
    if (count < 8) { /* too few for tables */
        for (size_t index = 0; index < count; index++) {
            target[index] ^= multiply_portable(factor, source[index]);
        }
        return;
    }
    element tables[16][16];
    for (int digit = 0; digit < 16; digit++) {
        multiples(factor, tables[digit]);
        factor = times_x(times_x(times_x(times_x(factor))));
    }
    for (size_t index = 0; index < count; index++) {
        element value = source[index], product = 0;
        for (int digit = 0; digit < 16; digit++) {
            product ^= tables[digit][(value >> (4 * digit)) & 15];
        }
        target[index] ^= product;
    }
}

/* Rows that many factors are to be multiplied by have tables of their multiples by all polynomials
 * of four bits. Then four bits of a factor cost an addition, and the sum of all products is shifted
 * instead of each ("four Russians"). Rows of tables are padded to whole blocks. */
#define BLOCK 16
#define MULTIPLES 16

static inline size_t
padded(size_t count)
{
    return (count + BLOCK - 1) / BLOCK * BLOCK;
}

static void
make_table(element *table, const element *row, size_t count)
{
    size_t stride = padded(count);
    memset(table, 0, MULTIPLES * stride * sizeof(element));
    memcpy(table + stride, row, count * sizeof(element));
    for (size_t digit = 2; digit < MULTIPLES; digit++) {
        element *target = table + digit * stride;
        const element *half = table + digit / 2 * stride;
        const element *rest = table + digit % 2 * stride;
        for (size_t index = 0; index < stride; index++) {
            target[index] = times_x(half[index]) ^ rest[index];
        }
    }
}

/* target[i] += the sum of factors[row] * row[i] */
static void
add_combined(element *target, const element *tables, size_t rows, const element *factors,
             size_t count)
{
    size_t stride = padded(count);
    for (size_t start = 0; start < count; start += BLOCK) {
        element sums[BLOCK] = {0};
        for (int shift = 60; shift >= 0; shift -= 4) {
            for (size_t index = 0; index < BLOCK; index++) {
                sums[index] = reduce(sums[index] >> 60, sums[index] << 4);
            }
            const element *table = tables + start;
            for (size_t row = 0; row < rows; row++, table += MULTIPLES * stride) {
                const element *multiple = table + ((factors[row] >> shift) & 15) * stride;
                for (size_t index = 0; index < BLOCK; index++) {
                    sums[index] ^= multiple[index];
                }
            }
        }
        size_t width = count - start < BLOCK ? count - start : BLOCK;
        for (size_t index = 0; index < width; index++) {
            target[start + index] ^= sums[index];
        }
    }
}

static const arithmetic portable = {
    multiply_portable, square_portable, dot_portable, add_scaled_portable, 1};

/* --- elements, with carry-less multiplication ------------------------------------------------ */

#if HAS_CARRYLESS

#define CARRYLESS __attribute__((target("pclmul,sse2")))

CARRYLESS static inline element
reduce_wide(__m128i product)
{
    __m128i upper = _mm_unpackhi_epi64(product, product);
    return reduce((uint64_t)_mm_cvtsi128_si64(upper), (uint64_t)_mm_cvtsi128_si64(product));
}

CARRYLESS static inline __m128i
multiply_wide(element a, element b)
{
    return _mm_clmulepi64_si128(
        _mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128((long long)b), 0);
}

CARRYLESS static element
multiply_carryless(element a, element b)
{
    return reduce_wide(multiply_wide(a, b));
}

CARRYLESS static element
square_carryless(element a)
{
    return multiply_carryless(a, a);
}

CARRYLESS static element
dot_carryless(const element *a, const element *b, size_t count)
{
    __m128i sum = _mm_setzero_si128();
    for (size_t index = 0; index < count; index++) {
        sum = _mm_xor_si128(sum, multiply_wide(a[index], *(b - index)));
    }
    return reduce_wide(sum);
}

CARRYLESS static void
add_scaled_carryless(element *target, const element *source, size_t count, element factor)
{
    for (size_t index = 0; index < count; index++) {
        target[index] ^= reduce_wide(multiply_wide(factor, source[index]));
    }
}

static const arithmetic carryless = {
    multiply_carryless, square_carryless, dot_carryless, add_scaled_carryless, 0};

#endif

static const arithmetic *fastest = &portable;

static element
invert(const arithmetic *math, element a)
{
    /* a^(2^64 - 2), with p(n) = a^(2^n - 1) and p(m + n) = p(m)^(2^n) * p(n) */
    element power = a; /* p(size) */
    int size = 1;
    for (int bit = 4; bit >= 0; bit--) {
        /* 63 = 0b111111: double, and one more */
        element doubled = power;
        for (int step = 0; step < size; step++) {
            doubled = math->square(doubled);
        }
        power = math->multiply(math->square(math->multiply(doubled, power)), a);
        size = 2 * size + 1;
    }
    return math->square(power); /* p(63)^2 */
}

/* For each power of two a y with y^2 + y equal to it, up to one fixed element of trace 1. */
static element halves[BITS];

static void
make_halves(void)
{
    element images[BITS] = {0}, origins[BITS] = {0}; /* by the image's highest bit */
    for (int bit = 1; bit < BITS; bit++) {
        element y = (element)1 << bit;
        element image = square_portable(y) ^ y;
        for (int top = BITS - 1; top >= 0; top--) {
            if (!(image >> top & 1)) {
                continue;
            }
            if (!images[top]) {
                images[top] = image;
                origins[top] = y;
                break;
            }
            image ^= images[top];
            y ^= origins[top];
        }
    }
    for (int bit = 0; bit < BITS; bit++) {
        element image = (element)1 << bit, solution = 0;
        for (int top = BITS - 1; top >= 0; top--) {
            if (image >> top & 1) {
                image ^= images[top];
                solution ^= origins[top];
            }
        }
        halves[bit] = solution;
    }
}

/* --- polynomials --------------------------------------------------------------------------- */

/* Space for one decoding; `count` is the number of elements looked for. */
typedef struct {
    const arithmetic *math;
    size_t count;
    element *powers;  /* 64 rows: x^(2^i) modulo the locator */
    element *squares; /* count rows: x^(count + i) modulo the locator */
    element *traces;  /* MAX_TRACES rows: trace(b x) modulo the locator, made when needed */
    size_t traces_made;
    uint64_t random;
    element *roots;
    size_t roots_found;
    element *scratch; /* three polynomials */
    element *square_tables; /* of every second row of `squares`; NULL if there are no tables */
    element *power_tables;  /* of the rows of `powers`, likewise */
} decoding;

/* Reduce a modulo a monic polynomial b of degree `degree`; the quotient takes a's upper place. */
static void
divide(const arithmetic *math, element *a, size_t terms, const element *b, size_t degree)
{
    while (terms > degree) {
        terms--;
        if (a[terms]) {
            math->add_scaled(a + terms - degree, b, degree, a[terms]);
        }
    }
}

static size_t
count_terms(const element *a, size_t terms)
{
    while (terms && !a[terms - 1]) {
        terms--;
    }
    return terms;
}

static void
make_monic(const arithmetic *math, element *a, size_t terms)
{
    element inverse = invert(math, a[terms - 1]);
    for (size_t index = 0; index + 1 < terms; index++) {
        a[index] = math->multiply(a[index], inverse);
    }
    a[terms - 1] = 1;
}

/* The monic greatest common divisor of monic a and b, in a; both are used up.
 * Returns its number of terms. */
static size_t
divisor(const arithmetic *math, element **a, size_t a_terms, element **b, size_t b_terms)
{
    while (b_terms) {
        make_monic(math, *b, b_terms);
        divide(math, *a, a_terms, *b, b_terms - 1);
        size_t rest = count_terms(*a, b_terms - 1);
        element *other = *a;
        *a = *b;
        *b = other;
        a_terms = b_terms;
        b_terms = rest;
    }
    return a_terms;
}

/* The Berlekamp-Massey algorithm, of which every second step changes nothing.
 * Writes the monic locator with count + 1 terms; -1 if there is none of degree <= max_elements.
 * `space` has room for four polynomials of 2 * capacity terms. */
static int
find_locator(const arithmetic *math, const element *odd, size_t capacity, size_t max_elements,
             element *space, element *locator)
{
    size_t length = 2 * capacity, size = 0, shift = 1;
    element *syndromes = space, *current = space + length, *previous = space + 2 * length;
    element *kept = space + 3 * length;
    element last = 1; /* the discrepancy that belongs to `previous` */

    for (size_t index = 0; index < length; index++) {
        syndromes[index] = index % 2 ? math->square(syndromes[index / 2]) : odd[index / 2];
    }
    memset(current, 0, 3 * length * sizeof(element));
    current[0] = previous[0] = 1;
    for (size_t index = 0; index < length; index += 2, shift += 2) {
        element found = math->dot(current, syndromes + index, size + 1);
        if (!found) {
            continue;
        }
        int grows = 2 * size <= index;
        size_t grown = index + 1 - size;
        if (grows) {
            if (grown > max_elements) {
                return -1;
            }
            memcpy(kept, current, (size + 1) * sizeof(element));
        }
        /* previous * x^shift has no more than capacity + 1 terms */
        size_t terms = count_terms(previous, capacity + 1);
        element factor = math->multiply(found, invert(math, last));
        math->add_scaled(current + shift, previous, terms, factor);
        if (grows) {
            element *other = previous;
            previous = kept;
            kept = other;
            memset(previous + size + 1, 0, (length - size - 1) * sizeof(element));
            size = grown;
            last = found;
            shift = 0;
        }
    }
    if (count_terms(current, length) != size + 1) {
        return -1;
    }
    /* Elements are the inverses of its roots. */
    for (size_t index = 0; index <= size; index++) {
        locator[index] = current[size - index];
    }
    make_monic(math, locator, size + 1);
    return (int)size;
}

/* Collect the roots of a monic polynomial of degree 1 or 2; 0 if they are not all different. */
static int
small_roots(decoding *job, const element *factor, size_t degree)
{
    const arithmetic *math = job->math;
    if (degree == 1) {
        job->roots[job->roots_found++] = factor[0];
        return 1;
    }
    if (!factor[1]) {
        return 0;
    }
    element inverse = invert(math, factor[1]), y = 0;
    element quotient = math->multiply(factor[0], math->square(inverse));
    for (int bit = 0; bit < BITS; bit++) {
        y ^= halves[bit] & (0 - (quotient >> bit & 1));
    }
    if ((math->square(y) ^ y) != quotient) {
        return 0;
    }
    element root = math->multiply(factor[1], y);
    job->roots[job->roots_found++] = root;
    job->roots[job->roots_found++] = root ^ factor[1];
    return 1;
}

/* Compute x^(2^i) modulo the locator; whether x^(2^64) is x, so that all its roots are here. */
static int
frobenius_powers(decoding *job, const element *locator)
{
    const arithmetic *math = job->math;
    size_t count = job->count;
    element *row = job->squares;
    memcpy(row, locator, count * sizeof(element));
    for (size_t index = 1; index < count; index++) {
        element *next = row + count, top = row[count - 1];
        next[0] = 0;
        memcpy(next + 1, row, (count - 1) * sizeof(element));
        math->add_scaled(next, locator, count, top);
        row = next;
    }
    size_t kept = (count + 1) / 2, folded = count - kept; /* 2 * index < count, or not */
    const element *first = job->squares + count % 2 * count;
    if (job->square_tables) {
        for (size_t index = 0; index < folded; index++) {
            make_table(job->square_tables + index * MULTIPLES * padded(count),
                       first + 2 * index * count, count);
        }
    }
    element *factors = job->scratch;
    element *power = job->powers;
    memset(power, 0, 65 * count * sizeof(element));
    power[1] = 1;
    for (int step = 0; step < BITS; step++) {
        element *next = power + count;
        for (size_t index = 0; index < kept; index++) {
            next[2 * index] = math->square(power[index]);
        }
        for (size_t index = 0; index < folded; index++) {
            factors[index] = math->square(power[kept + index]);
        }
        if (job->square_tables) {
            add_combined(next, job->square_tables, folded, factors, count);
        } else {
            for (size_t index = 0; index < folded; index++) {
                math->add_scaled(next, first + 2 * index * count, count, factors[index]);
            }
        }
        power = next;
    }
    return power[1] == 1 && !power[0] && count_terms(power, count) == 2;
}

static void
make_power_tables(decoding *job)
{
    size_t count = job->count;
    for (size_t bit = 0; job->power_tables && bit < BITS; bit++) {
        make_table(job->power_tables + bit * MULTIPLES * padded(count),
                   job->powers + bit * count, count);
    }
}

static const element *
get_trace(decoding *job, size_t number)
{
    while (job->traces_made <= number) {
        element *trace = job->traces + job->traces_made++ * job->count;
        /* splitmix64 */
        uint64_t b = job->random += 0x9E3779B97F4A7C15u;
        b = (b ^ (b >> 30)) * 0xBF58476D1CE4E5B9u;
        b = (b ^ (b >> 27)) * 0x94D049BB133111EBu;
        b ^= b >> 31;
        memset(trace, 0, job->count * sizeof(element));
        element factors[BITS];
        for (int bit = 0; bit < BITS; bit++) {
            factors[bit] = b;
            b = job->math->square(b);
        }
        if (job->power_tables) {
            add_combined(trace, job->power_tables, BITS, factors, job->count);
            continue;
        }
        for (int bit = 0; bit < BITS; bit++) {
            job->math->add_scaled(trace, job->powers + bit * job->count, job->count, factors[bit]);
        }
    }
    return job->traces + number * job->count;
}

/* Collect the roots of a monic factor of the locator; 0 if there is one that is not here.
 * The factor's array is used up. Recursion ends because degrees fall; it is at most `count` deep. */
static int
factor_roots(decoding *job, element *factor, size_t degree, size_t number)
{
    const arithmetic *math = job->math;
    size_t count = job->count;
    while (degree > 2) {
        if (number == MAX_TRACES) {
            return 0;
        }
        element *a = job->scratch, *b = job->scratch + count + 1;
        element *part = a, *rest = b;
        memcpy(a, factor, (degree + 1) * sizeof(element));
        memcpy(b, get_trace(job, number++), count * sizeof(element));
        divide(math, b, count, factor, degree);
        size_t terms = divisor(math, &part, degree + 1, &rest, count_terms(b, degree));
        if (terms < 2 || terms > degree) {
            continue;
        }
        /* The quotient takes the upper, the part the lower place of the factor. */
        size_t part_degree = terms - 1, rest_degree = degree - part_degree;
        divide(math, factor, degree + 1, part, part_degree);
        memcpy(factor, part, part_degree * sizeof(element));
        element *quotient = malloc((rest_degree + 1) * sizeof(element));
        if (quotient == NULL) {
            return -1;
        }
        memcpy(quotient, factor + part_degree, (rest_degree + 1) * sizeof(element));
        int done = factor_roots(job, quotient, rest_degree, number);
        free(quotient);
        if (done != 1) {
            return done;
        }
        factor[part_degree] = 1;
        degree = part_degree;
    }
    return small_roots(job, factor, degree);
}

static int
compare(const void *a, const void *b)
{
    element left = *(const element *)a, right = *(const element *)b;
    return left < right ? -1 : left > right;
}

/* Decode into `roots`, in any order, which has room for `capacity` elements.
 * Returns their number, -1 if the sketch cannot be decoded, -2 if there is no memory. */
static int
decode_sketch(const arithmetic *math, const element *odd, size_t capacity, size_t max_elements,
              element *roots)
{
    int result = -2;
    element *space = malloc(9 * capacity * sizeof(element) + sizeof(element));
    if (space == NULL) {
        return -2;
    }
    element *locator = space + 8 * capacity;
    int degree = find_locator(math, odd, capacity, max_elements, space, locator);
    if (degree <= 0) {
        free(space);
        return degree;
    }
    size_t count = (size_t)degree;
    decoding job = {.math = math, .count = count, .roots = roots};
    if (count <= 2) {
        result = small_roots(&job, locator, count) ? degree : -1;
        free(space);
        return result;
    }
    size_t tables = 0;
    if (math->uses_tables && count <= MAX_TABULATED) {
        tables = (count / 2 + BITS) * MULTIPLES * padded(count);
    }
    size_t terms = (65 + count + MAX_TRACES) * count + 3 * (count + 1);
    element *memory = malloc((terms + tables) * sizeof(element));
    if (memory != NULL) {
        job.powers = memory;
        job.squares = job.powers + 65 * count;
        job.traces = job.squares + count * count;
        job.scratch = job.traces + MAX_TRACES * count;
        if (tables) {
            job.power_tables = memory + terms;
            job.square_tables = job.power_tables + BITS * MULTIPLES * padded(count);
        }
        for (size_t index = 0; index < capacity; index++) {
            job.random = (job.random ^ odd[index]) * 0xD6E8FEB86659FD93u;
        }
        int done = 0;
        if (frobenius_powers(&job, locator)) {
            make_power_tables(&job);
            done = factor_roots(&job, locator, count, 0);
        }
        if (done == 1) {
            result = degree;
        } else if (done == 0) {
            result = -1;
        }
        free(memory);
    }
    free(space);
    return result;
}

/* --- Python ---------------------------------------------------------------------------------- */

static const arithmetic *
choose(int is_portable)
{
    return is_portable ? &portable : fastest;
}

static void
write_little_endian(unsigned char *target, element value)
{
    for (int byte = 0; byte < 8; byte++) {
        target[byte] = (unsigned char)(value >> (8 * byte));
    }
}

static element
read_little_endian(const unsigned char *source)
{
    element value = 0;
    for (int byte = 7; byte >= 0; byte--) {
        value = value << 8 | source[byte];
    }
    return value;
}

static PyObject *
sketch_encode(PyObject *module, PyObject *args)
{
    PyObject *elements;
    Py_ssize_t capacity;
    int is_portable = 0;
    if (!PyArg_ParseTuple(args, "On|p", &elements, &capacity, &is_portable)) {
        return NULL;
    }
    if (capacity < 1 || capacity > MAX_CAPACITY) {
        PyErr_SetString(PyExc_ValueError, "impossible capacity");
        return NULL;
    }
    const arithmetic *math = choose(is_portable);
    PyObject *iterator = PyObject_GetIter(elements);
    if (iterator == NULL) {
        return NULL;
    }
    element sums[MAX_CAPACITY], powers[MAX_CAPACITY];
    memset(sums, 0, (size_t)capacity * sizeof(element));
    PyObject *item;
    while ((item = PyIter_Next(iterator)) != NULL) {
        element value = PyLong_AsUnsignedLongLong(item);
        Py_DECREF(item);
        if (value == (element)-1 && PyErr_Occurred()) {
            break;
        }
        /* x, x^3, ..., and as many again, times x^2, x^4, x^8, ... */
        size_t wanted = (size_t)capacity;
        memset(powers, 0, wanted * sizeof(element));
        powers[0] = value;
        for (size_t have = 1; have < wanted; have *= 2) {
            size_t more = wanted - have < have ? wanted - have : have;
            value = math->square(value);
            math->add_scaled(powers + have, powers, more, value);
        }
        for (size_t index = 0; index < wanted; index++) {
            sums[index] ^= powers[index];
        }
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, 8 * capacity);
    if (result != NULL) {
        unsigned char *data = (unsigned char *)PyBytes_AS_STRING(result);
        for (Py_ssize_t index = 0; index < capacity; index++) {
            write_little_endian(data + 8 * index, sums[index]);
        }
    }
    return result;
}

static PyObject *
sketch_decode(PyObject *module, PyObject *args)
{
    const char *data;
    Py_ssize_t size, max_elements;
    int is_portable = 0;
    if (!PyArg_ParseTuple(args, "y#n|p", &data, &size, &max_elements, &is_portable)) {
        return NULL;
    }
    Py_ssize_t capacity = size / 8;
    if (size % 8 || capacity < 1 || capacity > MAX_CAPACITY || max_elements < 0 ||
        max_elements > capacity) {
        PyErr_SetString(PyExc_ValueError, "impossible size");
        return NULL;
    }
    element odd[MAX_CAPACITY], roots[MAX_CAPACITY];
    for (Py_ssize_t index = 0; index < capacity; index++) {
        odd[index] = read_little_endian((const unsigned char *)data + 8 * index);
    }
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = decode_sketch(choose(is_portable), odd, (size_t)capacity, (size_t)max_elements, roots);
    if (count > 0) {
        qsort(roots, (size_t)count, sizeof(element), compare);
    }
    Py_END_ALLOW_THREADS
    if (count == -1) {
        Py_RETURN_NONE;
    }
    if (count < 0) {
        return PyErr_NoMemory();
    }
    PyObject *result = PyList_New(count);
    for (int index = 0; result != NULL && index < count; index++) {
        PyObject *item = PyLong_FromUnsignedLongLong(roots[index]);
        if (item == NULL) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, index, item);
    }
    return result;
}

static int
sketch_exec(PyObject *module)
{
    make_halves();
#if HAS_CARRYLESS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("pclmul")) {
        fastest = &carryless;
    }
#endif
    return PyModule_AddIntConstant(module, "CARRYLESS", fastest != &portable);
}

static PyMethodDef methods[] = {
    {"encode", sketch_encode, METH_VARARGS, "Add up the syndromes of elements."},
    {"decode", sketch_decode, METH_VARARGS, "Find the elements of a sketch."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, sketch_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_sketch",
    .m_doc = "Sketch arithmetic, compiled; see sketch_pure.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__sketch(void)
{
    return PyModuleDef_Init(&definition);
}
