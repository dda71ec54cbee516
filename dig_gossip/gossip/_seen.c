/* The seen set, compiled: what PureSeenSet of seen.py does, with the same results.
 *
 * A hundred thousand messages in dictionaries are 18 to 34 MB, and each new message touches
 * them in a dozen places at random: that takes longer than all else that is done about it. Here
 * hashes stand one after the other in a ring, in the order in which they came, and beside it is one
 * table of where they are, with open addressing. So a message costs two looks to places that are
 * not in the processor's cache, and one of them is known beforehand.
 *
 * The table is found by the first eight bytes of a hash, so that it serves find(), too. Who knows the
 * place of a hash in the table could choose messages that all go to one place: it depends on a key.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define HASH_BYTES 32
#define SHORT_BYTES 8
#define KEY_BYTES 16
#define FIRST_ROOM 16
/* So many that the table has at most 2^31 places. */
#define MAX_CAPACITY (1 << 29)
/* The place of the hash that goes after so many others is fetched beforehand. */
#define AHEAD 2

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

typedef struct {
    uint32_t mark; /* where it belongs, and a little more */
    uint32_t at;   /* place in the ring, plus 1; 0 where there is none */
} Place;

typedef struct {
    PyObject_HEAD
    uint64_t key[2];
    uint8_t *hashes; /* the ring, in three arrays */
    PyObject **values;
    uint32_t *marks;
    Place *table;
    uint32_t mask;     /* of the table */
    uint32_t capacity; /* of the set */
    uint32_t room;     /* of the ring, at most the capacity; until it is that, nothing has gone */
    uint32_t first;    /* the oldest */
    uint32_t count;
} Seen;

/* --- places in the table ----------------------------------------------------------------------- */

static inline uint64_t
turned(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void
siphash_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = turned(v[1], 13) ^ v[0], v[0] = turned(v[0], 32);
    v[2] += v[3], v[3] = turned(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = turned(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = turned(v[1], 17) ^ v[2], v[2] = turned(v[2], 32);
}

/* SipHash-1-3 of eight bytes. */
static inline uint32_t
mark_of(const Seen *self, const uint8_t *begin)
{
    uint64_t word;
    memcpy(&word, begin, SHORT_BYTES);
    uint64_t v[4] = {
        self->key[0] ^ 0x736f6d6570736575ULL, self->key[1] ^ 0x646f72616e646f6dULL,
        self->key[0] ^ 0x6c7967656e657261ULL, self->key[1] ^ 0x7465646279746573ULL,
    };
    v[3] ^= word;
    siphash_round(v);
    v[0] ^= word;
    const uint64_t end = (uint64_t)SHORT_BYTES << 56;
    v[3] ^= end;
    siphash_round(v);
    v[0] ^= end;
    v[2] ^= 0xff;
    siphash_round(v);
    siphash_round(v);
    siphash_round(v);
    return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]);
}

static inline uint8_t *
hash_at(const Seen *self, uint32_t place)
{
    return self->hashes + (size_t)place * HASH_BYTES;
}

/* Find a hash: its place in the ring, or -1. There is a ring. */
static inline int64_t
look_up(const Seen *self, const uint8_t *hash, uint32_t mark)
{
    for (uint32_t at = mark & self->mask; self->table[at].at != 0; at = (at + 1) & self->mask) {
        if (self->table[at].mark == mark) {
            uint32_t place = self->table[at].at - 1;
            if (memcmp(hash_at(self, place), hash, HASH_BYTES) == 0) {
                return place;
            }
        }
    }
    return -1;
}

static inline void
enter(Place *table, uint32_t mask, uint32_t mark, uint32_t place)
{
    uint32_t at = mark & mask;
    while (table[at].at != 0) {
        at = (at + 1) & mask;
    }
    table[at].mark = mark;
    table[at].at = place + 1;
}

/* Take out what is at a place of the ring, and close the gap (Knuth 6.4, algorithm R). */
static void
take_out(Seen *self, uint32_t place)
{
    const uint32_t mask = self->mask;
    uint32_t gap = self->marks[place] & mask;
    while (self->table[gap].at != place + 1) {
        gap = (gap + 1) & mask;
    }
    for (uint32_t at = (gap + 1) & mask; self->table[at].at != 0; at = (at + 1) & mask) {
        uint32_t home = self->table[at].mark & mask;
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            self->table[gap] = self->table[at];
            gap = at;
        }
    }
    self->table[gap].at = 0;
}

/* --- room -------------------------------------------------------------------------------------- */

/* Make the ring larger; nothing has gone from it. */
static int
grow(Seen *self)
{
    uint32_t room = self->room == 0 ? FIRST_ROOM : 2 * self->room;
    if (room > self->capacity) {
        room = self->capacity;
    }
    uint32_t places = 2;
    while (places < 2 * (uint64_t)room) {
        places *= 2;
    }
    Place *table = PyMem_Calloc(places, sizeof(Place));
    if (table == NULL) {
        goto failed;
    }
    uint8_t *hashes = PyMem_Realloc(self->hashes, (size_t)room * HASH_BYTES);
    if (hashes == NULL) {
        goto failed;
    }
    self->hashes = hashes;
    PyObject **values = PyMem_Realloc(self->values, (size_t)room * sizeof(PyObject *));
    if (values == NULL) {
        goto failed;
    }
    self->values = values;
    uint32_t *marks = PyMem_Realloc(self->marks, (size_t)room * sizeof(uint32_t));
    if (marks == NULL) {
        goto failed;
    }
    self->marks = marks;
    for (uint32_t place = 0; place < self->count; place++) {
        enter(table, places - 1, marks[place], place);
    }
    PyMem_Free(self->table);
    self->table = table, self->mask = places - 1, self->room = room;
    return 0;
failed:
    PyMem_Free(table);
    PyErr_NoMemory();
    return -1;
}

/* --- what Python calls ------------------------------------------------------------------------- */

static int
is_hash(PyObject *argument)
{
    return PyBytes_Check(argument) && PyBytes_GET_SIZE(argument) == HASH_BYTES;
}

static PyObject *
seen_get(Seen *self, PyObject *argument)
{
    if (self->count == 0 || !is_hash(argument)) {
        Py_RETURN_NONE;
    }
    const uint8_t *hash = (const uint8_t *)PyBytes_AS_STRING(argument);
    int64_t place = look_up(self, hash, mark_of(self, hash));
    return Py_NewRef(place < 0 ? Py_None : self->values[place]);
}

static PyObject *
seen_find(Seen *self, PyObject *argument)
{
    if (self->count == 0 || !PyBytes_Check(argument)
        || PyBytes_GET_SIZE(argument) != SHORT_BYTES) {
        Py_RETURN_NONE;
    }
    const uint8_t *begin = (const uint8_t *)PyBytes_AS_STRING(argument);
    uint32_t mark = mark_of(self, begin), age = 0;
    int64_t latest = -1;
    for (uint32_t at = mark & self->mask; self->table[at].at != 0; at = (at + 1) & self->mask) {
        uint32_t place = self->table[at].at - 1;
        if (self->table[at].mark == mark && memcmp(hash_at(self, place), begin, SHORT_BYTES) == 0) {
            uint32_t since =
                place >= self->first ? place - self->first : place + self->room - self->first;
            if (latest < 0 || since > age) {
                latest = place, age = since;
            }
        }
    }
    if (latest < 0) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize((const char *)hash_at(self, (uint32_t)latest), HASH_BYTES);
}

static PyObject *
seen_replace(Seen *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "a hash and a value are needed");
        return NULL;
    }
    if (self->count != 0 && is_hash(args[0])) {
        const uint8_t *hash = (const uint8_t *)PyBytes_AS_STRING(args[0]);
        int64_t place = look_up(self, hash, mark_of(self, hash));
        if (place >= 0) {
            Py_SETREF(self->values[place], Py_NewRef(args[1]));
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
seen_add(Seen *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !is_hash(args[0])) {
        PyErr_SetString(PyExc_TypeError, "a hash of 32 bytes and a value are needed");
        return NULL;
    }
    if (self->count == self->room && self->room < self->capacity && grow(self) < 0) {
        return NULL;
    }
    const uint8_t *hash = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    const uint32_t mark = mark_of(self, hash);
    PyObject *gone = NULL;
    uint32_t place;
    if (self->count == self->capacity) {
        place = self->first;
        take_out(self, place);
        gone = self->values[place];
        self->first = place + 1 == self->room ? 0 : place + 1;
        uint32_t ahead = (uint32_t)(((uint64_t)self->first + AHEAD) % self->room);
        PREFETCH(self->table + (self->marks[ahead] & self->mask));
    }
    else {
        place = self->count++;
    }
    memcpy(hash_at(self, place), hash, HASH_BYTES);
    self->values[place] = Py_NewRef(args[1]);
    self->marks[place] = mark;
    enter(self->table, self->mask, mark, place);
    Py_XDECREF(gone);
    Py_RETURN_NONE;
}

static Py_ssize_t
seen_length(Seen *self)
{
    return self->count;
}

static PyObject *
seen_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    Py_ssize_t capacity, size;
    const char *key;
    if (!PyArg_ParseTuple(args, "ny#", &capacity, &key, &size)) {
        return NULL;
    }
    if (capacity < 1 || capacity > MAX_CAPACITY || size != KEY_BYTES) {
        PyErr_SetString(PyExc_ValueError, "the capacity or the key is out of range");
        return NULL;
    }
    Seen *self = (Seen *)type->tp_alloc(type, 0);
    if (self != NULL) {
        memcpy(self->key, key, KEY_BYTES);
        self->capacity = (uint32_t)capacity;
    }
    return (PyObject *)self;
}

static int
seen_traverse(Seen *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (uint32_t place = 0; place < self->count; place++) {
        Py_VISIT(self->values[place]);
    }
    return 0;
}

static int
seen_clear(Seen *self)
{
    uint32_t count = self->count;
    PyObject **values = self->values;
    PyMem_Free(self->hashes);
    PyMem_Free(self->marks);
    PyMem_Free(self->table);
    self->hashes = NULL, self->values = NULL, self->marks = NULL, self->table = NULL;
    self->mask = self->room = self->first = self->count = 0;
    for (uint32_t place = 0; place < count; place++) {
        Py_DECREF(values[place]);
    }
    PyMem_Free(values);
    return 0;
}

static void
seen_dealloc(Seen *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    seen_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- the module -------------------------------------------------------------------------------- */

static PyMethodDef seen_methods[] = {
    {"get", (PyCFunction)seen_get, METH_O, "What is remembered of a hash, or None."},
    {"find", (PyCFunction)seen_find, METH_O, "The latest hash that begins so, or None."},
    {"replace", (PyCFunction)(void (*)(void))seen_replace, METH_FASTCALL, "Remember another."},
    {"add", (PyCFunction)(void (*)(void))seen_add, METH_FASTCALL, "Remember a hash."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot seen_slots[] = {
    {Py_tp_new, seen_new},
    {Py_tp_dealloc, seen_dealloc},
    {Py_tp_traverse, seen_traverse},
    {Py_tp_clear, seen_clear},
    {Py_tp_methods, seen_methods},
    {Py_mp_length, seen_length},
    {Py_tp_doc, "The most recently added hashes, and what is remembered of each."},
    {0, NULL},
};

static PyType_Spec seen_spec = {
    .name = "dig_gossip.gossip._seen.Seen",
    .basicsize = sizeof(Seen),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = seen_slots,
};

static int
module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&seen_spec);
    if (type == NULL || PyModule_AddObjectRef(module, "Seen", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_seen",
    .m_doc = "The seen set, compiled; see seen.py.",
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__seen(void)
{
    return PyModuleDef_Init(&definition);
}
