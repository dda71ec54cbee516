/* Messages as WebSocket frames, frames as messages, and the hash of a message, compiled: what
 * frames_pure.py and message.py do, with the same results.
 *
 * Frames are what RFC 6455 calls unfragmented binary ones, with payloads below 64 KiB. A payload is
 * an envelope (wire.md section 4) and its data. Messages are made and read through the offsets of
 * their slots, which prepare() finds out and checks.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAS_SHA 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define HAS_SHA 0
#endif

#define FIN_BINARY 0x82
#define MASKED 0x80
#define LONG_FRAME_BYTES 65536
/* A run of chunks begins with room for some, and grows by no more than one: memory of 128 KiB and
 * more would be asked of the system, and given back, each time. */
#define BULKY_BYTES 8192
#define LARGEST_STEP 32768
/* For how many messages that wait there is room at first, and while none does. */
#define FIRST_ROOM 16
#define KEPT_ROOM 512
/* Beyond this many bytes others may run while a hash is computed. */
#define UNLOCKED_BYTES 16384

/* --- messages -------------------------------------------------------------------------------- */

static PyTypeObject *message_type; /* of the one interpreter that prepares this module */
static Py_ssize_t type_at, id_at, data_at;

#define SLOT(message, offset) (*(PyObject **)((char *)(message) + (offset)))

static Py_ssize_t
offset_of(PyTypeObject *type, const char *name)
{
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found == NULL) {
        return -1;
    }
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(found, &PyMemberDescr_Type) && ((PyDescrObject *)found)->d_type == type) {
        PyMemberDef *member = ((PyMemberDescrObject *)found)->d_member;
        if (member->type == T_OBJECT_EX) {
            offset = member->offset;
        }
    }
    Py_DECREF(found);
    if (offset < 0) {
        PyErr_Format(PyExc_TypeError, "%s is not a slot of the class", name);
    }
    return offset;
}

static PyObject *
prepare(PyObject *module, PyObject *argument)
{
    if (!PyType_Check(argument)) {
        PyErr_SetString(PyExc_TypeError, "a class is needed");
        return NULL;
    }
    PyTypeObject *type = (PyTypeObject *)argument;
    Py_ssize_t first, second, third;
    if ((first = offset_of(type, "type")) < 0 || (second = offset_of(type, "id")) < 0
        || (third = offset_of(type, "data")) < 0) {
        return NULL;
    }
    type_at = first, id_at = second, data_at = third;
    Py_INCREF(type);
    Py_XSETREF(message_type, type);
    Py_RETURN_NONE;
}

/* What calling the class does, in one step where its initializer would have nothing to check. */
static PyObject *
message_call(PyObject *type, PyObject *const *args, size_t flags, PyObject *names)
{
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count == 3 && names == NULL && type == (PyObject *)message_type
        && PyLong_CheckExact(args[0]) && args[1] == Py_None && PyBytes_CheckExact(args[2])) {
        int overflow;
        long opcode = PyLong_AsLongAndOverflow(args[0], &overflow);
        if (!overflow && opcode >= 0 && opcode <= 255) {
            PyObject *message = message_type->tp_alloc(message_type, 0);
            if (message != NULL) {
                SLOT(message, type_at) = Py_NewRef(args[0]);
                SLOT(message, id_at) = Py_NewRef(Py_None);
                SLOT(message, data_at) = Py_NewRef(args[2]);
            }
            return message;
        }
    }
    PyObject *positional = PyTuple_New(count), *named = NULL, *message = NULL;
    if (positional == NULL) {
        return NULL;
    }
    for (Py_ssize_t index = 0; index < count; index++) {
        PyTuple_SET_ITEM(positional, index, Py_NewRef(args[index]));
    }
    if (names != NULL && (named = PyDict_New()) == NULL) {
        goto done;
    }
    for (Py_ssize_t index = 0; named != NULL && index < PyTuple_GET_SIZE(names); index++) {
        if (PyDict_SetItem(named, PyTuple_GET_ITEM(names, index), args[count + index]) < 0) {
            goto done;
        }
    }
    message = PyType_Type.tp_call(type, positional, named);
done:
    Py_XDECREF(named);
    Py_DECREF(positional);
    return message;
}

/* Let calls of the class that prepare() was told of come here. */
static PyObject *
speed_up(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (message_type == NULL || message_type->tp_itemsize != 0) {
        PyErr_SetString(PyExc_TypeError, "not prepared, or not for such a class");
        return NULL;
    }
    message_type->tp_vectorcall = message_call;
    Py_RETURN_NONE;
}

/* Look into a message: its opcode, its id or -1, its data (borrowed). */
static int
look_into(PyObject *message, int *opcode, int *id, PyObject **data)
{
    if (message_type == NULL || !PyObject_TypeCheck(message, message_type)) {
        PyErr_SetString(PyExc_TypeError, "a Message is needed");
        return -1;
    }
    PyObject *number = SLOT(message, type_at), *correlation = SLOT(message, id_at);
    *data = SLOT(message, data_at);
    if (number == NULL || correlation == NULL || *data == NULL || !PyBytes_Check(*data)) {
        PyErr_SetString(PyExc_TypeError, "the Message is not complete");
        return -1;
    }
    long value = PyLong_AsLong(number);
    if (value < 0 || value > 255) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "the opcode is out of range");
        }
        return -1;
    }
    *opcode = (int)value;
    *id = -1;
    if (correlation != Py_None) {
        value = PyLong_AsLong(correlation);
        if (value < 0 || value > 65535) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "the id is out of range");
            }
            return -1;
        }
        *id = (int)value;
    }
    return 0;
}

/* --- masks ----------------------------------------------------------------------------------- */

/* Copy with a key over it; key[0] belongs to the first byte. The two do not overlap. */
static void
copy_masked(uint8_t *target, const uint8_t *source, size_t size, const uint8_t key[4])
{
    uint64_t wide;
    memcpy(&wide, key, 4);
    memcpy((uint8_t *)&wide + 4, key, 4);
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        memcpy(&word, source + at, 8);
        word ^= wide;
        memcpy(target + at, &word, 8);
    }
    for (; at < size; at++) {
        target[at] = source[at] ^ key[at & 3];
    }
}

static void
copy(uint8_t *target, const uint8_t *source, size_t size, const uint8_t *key, size_t turn)
{
    if (key == NULL) {
        memcpy(target, source, size);
        return;
    }
    const uint8_t turned[4] = {
        key[turn & 3], key[(turn + 1) & 3], key[(turn + 2) & 3], key[(turn + 3) & 3]};
    copy_masked(target, source, size, turned);
}

/* --- frames to messages ---------------------------------------------------------------------- */

/* The message of a payload; None if it is none. */
static PyObject *
message_of(const uint8_t *payload, size_t length, const uint8_t *key)
{
    uint8_t head[8];
    copy(head, payload, length < 8 ? length : 8, key, 0);
    size_t start = length >= 6 && head[1] == 0 ? 6 : 8;
    if (length < start || head[1] > 1) {
        Py_RETURN_NONE;
    }
    uint32_t size = (uint32_t)head[start - 4] << 24 | (uint32_t)head[start - 3] << 16
                    | (uint32_t)head[start - 2] << 8 | head[start - 1];
    if (size != length - start) {
        Py_RETURN_NONE;
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (data == NULL) {
        return NULL;
    }
    copy((uint8_t *)PyBytes_AS_STRING(data), payload + start, size, key, start);
    PyObject *id = start == 6 ? Py_NewRef(Py_None) : PyLong_FromLong(head[2] << 8 | head[3]);
    PyObject *message = id == NULL ? NULL : message_type->tp_alloc(message_type, 0);
    if (message == NULL) {
        Py_XDECREF(id);
        Py_DECREF(data);
        return NULL;
    }
    SLOT(message, type_at) = PyLong_FromLong(head[0]); /* one of those that always exist */
    SLOT(message, id_at) = id;
    SLOT(message, data_at) = data;
    return message;
}

static PyObject *
take(PyObject *module, PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at, end;
    int is_masked;
    PyObject *into;
    if (!PyArg_ParseTuple(args, "y*nnpO!", &memory, &at, &end, &is_masked, &PyList_Type, &into)) {
        return NULL;
    }
    if (message_type == NULL || at < 0 || end > memory.len) {
        PyBuffer_Release(&memory);
        PyErr_SetString(PyExc_ValueError, "not prepared, or beyond the buffer");
        return NULL;
    }
    const uint8_t *bytes = memory.buf;
    Py_ssize_t octets = 0;
    int failed = 0;
    while (end - at >= 4) {
        size_t length = bytes[at + 1];
        if (is_masked) {
            length ^= MASKED;
        }
        Py_ssize_t start = at + 2;
        if (length == 126) {
            length = (size_t)bytes[at + 2] << 8 | bytes[at + 3];
            if (length < 126) {
                break;
            }
            start = at + 4;
        }
        else if (length > 126) {
            break;
        }
        if (is_masked) {
            start += 4;
        }
        Py_ssize_t stop = start + (Py_ssize_t)length;
        if (stop > end || bytes[at] != FIN_BINARY) {
            break;
        }
        PyObject *message =
            message_of(bytes + start, length, is_masked ? bytes + start - 4 : NULL);
        if (message == NULL || PyList_Append(into, message) < 0) {
            Py_XDECREF(message);
            failed = 1;
            break;
        }
        Py_DECREF(message);
        octets += (Py_ssize_t)length;
        at = stop;
    }
    PyBuffer_Release(&memory);
    return failed ? NULL : Py_BuildValue("nn", at, octets);
}

/* --- messages to frames ---------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *new_key; /* makes a key, a number of 32 bits; NULL: frames are not masked */
    PyObject *content; /* bytes, of which the first are used; or NULL */
    Py_ssize_t written; /* how many of them */
    Py_ssize_t size; /* of all frames, those of the messages that wait included */
    /* Messages that are not written yet. They are when the run is taken, so that many runs of the
     * same messages are not in the way of each other in the processor's cache. */
    PyObject **waiting;
    Py_ssize_t count, room;
    uint8_t key[4];
} Run;

/* The length of a frame's header, key included. */
static inline size_t
before_payload(const Run *self, size_t length)
{
    return (length < 126 ? 2 : 4) + (self->new_key == NULL ? 0 : 4);
}

/* Check the length of a payload, and draw the key of a run that begins with it. */
static int
begin_payload(Run *self, size_t length)
{
    if (length >= LONG_FRAME_BYTES) {
        PyErr_SetString(PyExc_ValueError, "the message is too long for a run");
        return -1;
    }
    if (self->size == 0 && self->new_key != NULL) {
        PyObject *number = PyObject_CallNoArgs(self->new_key);
        unsigned long key = number == NULL ? 0 : PyLong_AsUnsignedLong(number);
        Py_XDECREF(number);
        if (PyErr_Occurred()) {
            return -1;
        }
        for (int index = 0; index < 4; index++) {
            self->key[index] = (uint8_t)(key >> (24 - 8 * index));
        }
    }
    return 0;
}

static void
forget_waiting(Run *self)
{
    PyObject **waiting = self->waiting;
    Py_ssize_t count = self->count, room = self->room;
    self->waiting = NULL;
    self->count = self->room = 0;
    for (Py_ssize_t index = 0; index < count; index++) {
        Py_DECREF(waiting[index]);
    }
    if (room > KEPT_ROOM || self->waiting != NULL) {
        PyMem_Free(waiting);
    }
    else {
        self->waiting = waiting, self->room = room;
    }
}

/* Make room for so many bytes of frames in all. */
static int
reserve(Run *self, size_t needed, size_t capacity)
{
    if (self->content == NULL) {
        self->content = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)capacity);
    }
    else if ((size_t)PyBytes_GET_SIZE(self->content) < needed) {
        _PyBytes_Resize(&self->content, (Py_ssize_t)capacity);
    }
    if (self->content != NULL) {
        return 0;
    }
    forget_waiting(self); /* what there was is gone */
    self->written = self->size = 0;
    return -1;
}

/* Write all of a frame but its data; there is room.
 *
 * Returns where the data goes, which is `turn` bytes into the payload.
 */
static uint8_t *
begin_frame(Run *self, int opcode, int id, size_t size, size_t *turn)
{
    size_t head = id < 0 ? 6 : 8, length = head + size;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(self->content) + self->written;
    int mask_bit = self->new_key == NULL ? 0 : MASKED;
    *at++ = FIN_BINARY;
    if (length < 126) {
        *at++ = (uint8_t)(mask_bit | length);
    }
    else {
        *at++ = (uint8_t)(mask_bit | 126);
        *at++ = (uint8_t)(length >> 8);
        *at++ = (uint8_t)length;
    }
    uint8_t envelope[8] = {(uint8_t)opcode, id >= 0};
    uint8_t *rest = envelope + 2;
    if (id >= 0) {
        *rest++ = (uint8_t)(id >> 8);
        *rest++ = (uint8_t)id;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        *rest++ = (uint8_t)(size >> shift);
    }
    if (mask_bit) {
        /* The key of the whole run, turned to where it stands itself, which is the same turn. */
        Py_ssize_t place = at - (uint8_t *)PyBytes_AS_STRING(self->content);
        for (int index = 0; index < 4; index++) {
            *at++ = self->key[(place + index) & 3];
        }
        copy(at, envelope, head, at - 4, 0);
    }
    else {
        memcpy(at, envelope, head);
    }
    self->written += (Py_ssize_t)(before_payload(self, length) + length);
    *turn = head;
    return at + head;
}

/* The key of a frame whose data begins here. */
static inline const uint8_t *
key_before(Run *self, uint8_t *data, size_t turn)
{
    return self->new_key == NULL ? NULL : data - turn - 4;
}

static PyObject *
run_add(Run *self, PyObject *message)
{
    int opcode, id;
    PyObject *data;
    if (look_into(message, &opcode, &id, &data) < 0) {
        return NULL;
    }
    size_t length = (size_t)PyBytes_GET_SIZE(data) + (id < 0 ? 6 : 8);
    if (begin_payload(self, length) < 0) {
        return NULL;
    }
    if (self->count == self->room) {
        Py_ssize_t room = self->room == 0 ? FIRST_ROOM : 2 * self->room;
        PyObject **waiting = PyMem_Realloc(self->waiting, (size_t)room * sizeof(PyObject *));
        if (waiting == NULL) {
            return PyErr_NoMemory();
        }
        self->waiting = waiting, self->room = room;
    }
    self->waiting[self->count++] = Py_NewRef(message);
    self->size += (Py_ssize_t)(before_payload(self, length) + length);
    Py_RETURN_NONE;
}

/* Write the messages that wait. */
static int
write_waiting(Run *self)
{
    if (self->count == 0) {
        return 0;
    }
    if (reserve(self, (size_t)self->size, (size_t)self->size) < 0) {
        return -1;
    }
    for (Py_ssize_t index = 0; index < self->count; index++) {
        int opcode, id;
        PyObject *data;
        size_t turn;
        /* It was looked into before, and does not change; but nobody has to believe that. */
        if (look_into(self->waiting[index], &opcode, &id, &data) < 0) {
            return -1;
        }
        size_t size = (size_t)PyBytes_GET_SIZE(data), length = size + (id < 0 ? 6 : 8);
        if (length >= LONG_FRAME_BYTES
            || (size_t)(self->size - self->written) < before_payload(self, length) + length) {
            PyErr_SetString(PyExc_ValueError, "a message has changed");
            return -1;
        }
        uint8_t *at = begin_frame(self, opcode, id, size, &turn);
        copy(at, (uint8_t *)PyBytes_AS_STRING(data), size, key_before(self, at, turn), turn);
    }
    forget_waiting(self);
    return 0;
}

static PyObject *
run_add_divided(Run *self, PyObject *args)
{
    int opcode;
    Py_buffer first, second;
    size_t turn;
    if (!PyArg_ParseTuple(args, "iy*y*", &opcode, &first, &second)) {
        return NULL;
    }
    uint8_t *at = NULL;
    size_t size = (size_t)first.len + (size_t)second.len, length = 6 + size;
    if (opcode < 0 || opcode > 255) {
        PyErr_SetString(PyExc_ValueError, "the opcode is out of range");
    }
    else if (begin_payload(self, length) == 0 && write_waiting(self) == 0) {
        size_t needed = (size_t)self->size + before_payload(self, length) + length, capacity;
        if (self->content == NULL) {
            capacity = needed < BULKY_BYTES ? needed : 3 * needed;
        }
        else {
            capacity = (size_t)PyBytes_GET_SIZE(self->content);
            capacity += capacity < LARGEST_STEP ? capacity : LARGEST_STEP;
            capacity = capacity < needed ? needed : capacity;
        }
        if (reserve(self, needed, capacity) == 0) {
            at = begin_frame(self, opcode, -1, size, &turn);
            self->size = self->written;
        }
    }
    if (at != NULL) {
        const uint8_t *key = key_before(self, at, turn);
        copy(at, first.buf, (size_t)first.len, key, turn);
        copy(at + first.len, second.buf, (size_t)second.len, key, turn + (size_t)first.len);
    }
    PyBuffer_Release(&first);
    PyBuffer_Release(&second);
    if (at == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
run_take(Run *self, PyObject *Py_UNUSED(ignored))
{
    int failed = write_waiting(self);
    PyObject *content = self->content;
    Py_ssize_t size = self->written;
    self->content = NULL;
    self->written = self->size = 0;
    if (failed) {
        forget_waiting(self);
        Py_XDECREF(content);
        return NULL;
    }
    if (content == NULL || size == 0) {
        Py_XDECREF(content);
        return PyList_New(0);
    }
    if (PyBytes_GET_SIZE(content) != size && _PyBytes_Resize(&content, size) < 0) {
        return NULL;
    }
    PyObject *pieces = PyList_New(1);
    if (pieces == NULL) {
        Py_DECREF(content);
        return NULL;
    }
    PyList_SET_ITEM(pieces, 0, content);
    return pieces;
}

static PyObject *
run_clear(Run *self, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(self->content);
    self->written = self->size = 0;
    forget_waiting(self);
    Py_RETURN_NONE;
}

static PyObject *
run_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *new_key;
    if (!PyArg_ParseTuple(args, "O", &new_key)) {
        return NULL;
    }
    Run *self = (Run *)type->tp_alloc(type, 0);
    if (self != NULL && new_key != Py_None) {
        self->new_key = Py_NewRef(new_key);
    }
    return (PyObject *)self;
}

static int
run_traverse(Run *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->new_key);
    for (Py_ssize_t index = 0; index < self->count; index++) {
        Py_VISIT(self->waiting[index]);
    }
    return 0;
}

static int
run_forget(Run *self)
{
    Py_CLEAR(self->new_key);
    /* Only a collection comes here: what is left in the run can never be taken. */
    Py_CLEAR(self->content);
    self->written = self->size = 0;
    forget_waiting(self);
    return 0;
}

static void
run_dealloc(Run *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    run_forget(self);
    PyMem_Free(self->waiting);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef run_methods[] = {
    {"add", (PyCFunction)run_add, METH_O, "Add a message."},
    {"add_divided", (PyCFunction)run_add_divided, METH_VARARGS, "Add a message in two pieces."},
    {"take", (PyCFunction)run_take, METH_NOARGS, "Take the frames out."},
    {"clear", (PyCFunction)run_clear, METH_NOARGS, "Forget what is in it."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef run_members[] = {
    {"size", T_PYSSIZET, offsetof(Run, size), READONLY, "Bytes of the frames in it."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot run_slots[] = {
    {Py_tp_new, run_new},
    {Py_tp_dealloc, run_dealloc},
    {Py_tp_traverse, run_traverse},
    {Py_tp_clear, run_forget},
    {Py_tp_methods, run_methods},
    {Py_tp_members, run_members},
    {Py_tp_doc, "Messages that leave together, as one run of frames."},
    {0, NULL},
};

static PyType_Spec run_spec = {
    .name = "dig_gossip.wire._frames.Run",
    .basicsize = sizeof(Run),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = run_slots,
};

/* --- SHA-256, with the processor's instructions for it ----------------------------------------- */

#if HAS_SHA

static const uint32_t ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* FIPS 180-4. The instructions keep the state as two vectors, ABEF and CDGH, highest first, and the
 * message schedule as four, of which each step makes the oldest one anew. */
__attribute__((target("sha,sse4.1"))) static void
compress(__m128i state[2], const uint8_t *blocks, size_t count)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef = state[0], cdgh = state[1];
    for (; count > 0; count--, blocks += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i words[4];
        for (int index = 0; index < 4; index++) {
            words[index] = _mm_shuffle_epi8(
                _mm_loadu_si128((const __m128i *)(blocks + 16 * index)), swap);
        }
        for (int step = 0; step < 16; step++) {
            __m128i *now = &words[step & 3];
            if (step >= 4) {
                const __m128i last = words[(step + 3) & 3], last_but_one = words[(step + 2) & 3];
                *now = _mm_sha256msg2_epu32(
                    _mm_add_epi32(_mm_sha256msg1_epu32(*now, words[(step + 1) & 3]),
                                  _mm_alignr_epi8(last, last_but_one, 4)),
                    last);
            }
            const __m128i sum =
                _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)(ROUNDS + 4 * step)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    state[0] = abef;
    state[1] = cdgh;
}

/* The hash of one byte and what follows it. */
__attribute__((target("sha,sse4.1"))) static void
hash(uint8_t first, const uint8_t *data, size_t size, uint8_t digest[32])
{
    __m128i state[2] = {
        _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c),
        _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19),
    };
    uint8_t block[128] = {0};
    size_t begun = 1; /* bytes of the block that is not complete */
    block[0] = first;
    if (size >= 63) {
        memcpy(block + 1, data, 63);
        compress(state, block, 1);
        size_t whole = (size - 63) / 64;
        compress(state, data + 63, whole);
        data += 63 + 64 * whole;
        begun = 0;
        memset(block, 0, 64);
    }
    size_t rest = begun ? size : (size - 63) % 64;
    memcpy(block + begun, data, rest);
    begun += rest;
    block[begun] = 0x80;
    size_t last = begun < 56 ? 64 : 128;
    uint64_t bits = 8 * ((uint64_t)size + 1);
    for (int index = 0; index < 8; index++) {
        block[last - 1 - index] = (uint8_t)(bits >> (8 * index));
    }
    compress(state, block, last / 64);
    uint32_t abef[4], cdgh[4];
    _mm_storeu_si128((__m128i *)abef, state[0]);
    _mm_storeu_si128((__m128i *)cdgh, state[1]);
    const uint32_t words[8] = {
        abef[3], abef[2], cdgh[3], cdgh[2], abef[1], abef[0], cdgh[1], cdgh[0]};
    for (int index = 0; index < 32; index++) {
        digest[index] = (uint8_t)(words[index / 4] >> (24 - 8 * (index % 4)));
    }
}

static int
has_instructions(void)
{
    unsigned int a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) {
        return 0;
    }
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29)) != 0;
}

static PyObject *
message_hash(PyObject *module, PyObject *message)
{
    int opcode, id;
    PyObject *data;
    if (look_into(message, &opcode, &id, &data) < 0) {
        return NULL;
    }
    const uint8_t *bytes = (const uint8_t *)PyBytes_AS_STRING(data);
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    PyObject *digest = PyBytes_FromStringAndSize(NULL, 32);
    if (digest == NULL) {
        return NULL;
    }
    uint8_t *target = (uint8_t *)PyBytes_AS_STRING(digest);
    if (size <= UNLOCKED_BYTES) {
        hash((uint8_t)opcode, bytes, size, target);
        return digest;
    }
    Py_INCREF(data);
    Py_BEGIN_ALLOW_THREADS
    hash((uint8_t)opcode, bytes, size, target);
    Py_END_ALLOW_THREADS
    Py_DECREF(data);
    return digest;
}

static PyMethodDef hash_methods[] = {
    {"message_hash", message_hash, METH_O, "Name a message for gossip."},
    {NULL, NULL, 0, NULL},
};

#endif

/* --- the module ------------------------------------------------------------------------------ */

static int
frames_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&run_spec);
    if (type == NULL || PyModule_AddObjectRef(module, "Run", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
#if HAS_SHA
    if (has_instructions() && PyModule_AddFunctions(module, hash_methods) < 0) {
        return -1;
    }
#endif
    return 0;
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_O, "Say which class messages have."},
    {"speed_up", speed_up, METH_NOARGS, "Make messages faster when that class is called."},
    {"take", take, METH_VARARGS, "Take messages from the front of what came."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, frames_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_frames",
    .m_doc = "Frames and hashes of messages, compiled; see frames_pure.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__frames(void)
{
    return PyModuleDef_Init(&definition);
}
