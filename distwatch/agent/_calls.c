/* Records calls of ProcessGroup's collectives into the operations ring, in a fraction of a microsecond.

   The Python path (integrations/torch_collectives.py) is the truth, and works without this file. Here is a
   cache of what it has worked out: the numbers of groups, types and call sites, and which code is a
   library's. A call of which all is known is written here; for any other, `begin` of the Python path runs,
   which writes the call and teaches (`know_...`) what the next one needs. So whatever is lost from the
   tables only costs time.

   A collective's number is torch's own, which costs more to ask for than all else here and gives the GIL
   away. So a group that has long been called from Python alone is counted, not asked: `grant`. The agent's
   thread compares the count with the flight recorder's at each beat (`agree`), which grants the next calls,
   or finds that C++ calls the group too: then what was counted since is forgotten, and the group is asked
   before each call for good.

   Limited API of Python 3.10: one binary for every later version. All tables are read and written under
   the GIL; builds without one lack this API, and use the Python path. The tables hold references to what
   they compare by address, so an address is never another object's; groups are held weakly, since a
   reference would keep a destroyed group's threads. */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a slot of the ring is little endian"
#endif

/* In the stable ABI for good; 3.13 dropped the declaration, and its successor came with 3.11. */
PyAPI_FUNC(int) PyObject_AsWriteBuffer(PyObject *, void **, Py_ssize_t *);

/* Not in the stable ABI: NULL where a Python does not have them, and then the attributes are read. */
extern PyObject *PyFrame_GetBack(PyObject *) __attribute__((weak));
extern int PyFrame_GetLasti(PyObject *) __attribute__((weak)); /* since 3.11 */
extern PyObject *PyObject_Vectorcall(PyObject *, PyObject *const *, size_t, PyObject *)
    __attribute__((weak));

/* distwatch/state/pulse.py, SLOT. */
typedef struct {
    uint64_t number, entered, left;
    int64_t seq, numel;
    uint32_t site;
    uint16_t op, group, dtype, tag;
    int32_t peer;
    uint64_t again;
} Slot;
_Static_assert(sizeof(Slot) == 64 && offsetof(Slot, again) == 56, "as pulse.py has it");

typedef struct {
    PyObject *group; /* borrowed: `dropped` empties the entry when the group is gone */
    PyObject *ref, *name, *sequence;
    int64_t taken, last;
    uint64_t proven;                       /* the record's number when `last` was last known to be right */
    int32_t alone, grant, counted, failed; /* calls: one after the other; to be counted; counted and failed since */
    uint16_t number;
    uint8_t mixed; /* C++ calls it, too */
} Group;

typedef struct {
    PyObject *dtype;
    uint16_t number;
} Type;

/* A type as DLPack has it: code, bits and lanes in one number. */
typedef struct {
    uint32_t element;
    uint16_t number;
} Element;

/* DLPack 1: what it tells of a tensor, and torch's table of functions, of which the fourth tells it (ATen/dlpack.h).
   It asks neither a stream nor a device; only a lazy clone's memory becomes its own, as in the collective itself. */
typedef struct {
    void *data;
    int32_t device_type, device_id, dimensions;
    uint32_t element;
    int64_t *shape, *strides;
    uint64_t offset;
} View;
typedef struct {
    uint32_t major, minor;
    void *previous, *allocate, *lend, *take;
    int (*view)(void *tensor, View *view);
    void *stream;
} Exchange;

/* A class whose `dtype` and `numel` are C's, so that they need not be looked up in each tensor. */
typedef struct {
    PyObject *type, *dtype, *numel;
    descrgetfunc get_dtype;
    const Exchange *exchange; /* NULL where the class has none, or it failed */
} Kind;

typedef struct {
    PyObject *code;
    int library;
} Code;

typedef struct {
    PyObject *code, *caller;
    long lasti, caller_lasti;
    unsigned long thread;
    uint32_t number;
} Site;

enum { INTERFACE = 3 }; /* what Python expects of this file; another number where a binary is older than it */
enum { GROUPS = 64, TYPES = 32, CODES = 1024, SITES = 1024, KINDS = 4, ELEMENTS = 16, PROBES = 8 };
enum { COUNTED = 0xFFFE }; /* a collective's tag, which it has no other use for, and no send or recv has */
enum { ALONE = 64, GRANT = 4096 };

typedef struct {
    PyObject_HEAD
    PyObject *begin, *end, *fail; /* the Python path */
    PyObject *dropped;            /* the weak references' callback */
    PyObject *memory;             /* a memoryview: while it is held, the map stays */
    Slot *slots;                  /* NULL: detached */
    uint64_t count, number; /* the count is a power of two */
    unsigned long main_thread;
    int off;
    Group groups[GROUPS];
    Type types[TYPES];
    Kind kinds[KINDS]; /* the first ones that are seen */
    Element elements[ELEMENTS];
    Code codes[CODES];
    Site sites[SITES];
} Record;

typedef struct {
    PyObject_HEAD
    Record *record;
    PyObject *original, *name, *doc;
    PyMethodDef definition;
    uint16_t op;
    int rooted, sized;
} Observed;

static PyObject *s_back, *s_lasti, *s_dtype, *s_numel, *s_root;
static PyObject *observed_type;

static uint64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static Slot *
slot_of(Record *r, uint64_t number)
{
    return &r->slots[number & (r->count - 1)];
}

static size_t
mixed(uintptr_t value)
{
    return (size_t)(((uint64_t)value * 0x9E3779B97F4A7C15u) >> 40);
}

/* The entry of that key, else a free one, else the first of its places: what is there is forgotten. */
#define PLACE(table, size, hash, is_key, is_free)                                                  \
    size_t home = (hash), place = home % (size);                                                   \
    for (size_t step = 0; step < PROBES; step++) {                                                 \
        size_t at = (home + step) % (size);                                                        \
        if (is_key(table[at])) return &table[at];                                                  \
        if (is_free(table[at])) { place = at; break; }                                             \
    }                                                                                              \
    return insert ? &table[place] : NULL

static Group *
group_at(Record *r, PyObject *group, int insert)
{
#define IS_KEY(e) ((e).group == group)
#define IS_FREE(e) (insert && !(e).group) /* an emptied place may lie before the entry */
    if (insert) {
        Group *known = group_at(r, group, 0);
        if (known) return known;
    }
    PLACE(r->groups, GROUPS, mixed((uintptr_t)group), IS_KEY, IS_FREE);
#undef IS_KEY
#undef IS_FREE
}

static Type *
type_at(Record *r, PyObject *dtype, int insert)
{
#define IS_KEY(e) ((e).dtype == dtype)
#define IS_FREE(e) (!(e).dtype)
    PLACE(r->types, TYPES, mixed((uintptr_t)dtype), IS_KEY, IS_FREE);
#undef IS_KEY
#undef IS_FREE
}

static Code *
code_at(Record *r, PyObject *code, int insert)
{
#define IS_KEY(e) ((e).code == code)
#define IS_FREE(e) (!(e).code)
    PLACE(r->codes, CODES, mixed((uintptr_t)code), IS_KEY, IS_FREE);
#undef IS_KEY
#undef IS_FREE
}

static Site *
site_at(Record *r, const Site *key, int insert)
{
#define IS_KEY(e)                                                                                  \
    ((e).code == key->code && (e).lasti == key->lasti && (e).caller == key->caller &&              \
     (e).caller_lasti == key->caller_lasti && (e).thread == key->thread)
#define IS_FREE(e) (!(e).code)
    PLACE(r->sites, SITES,
          mixed((uintptr_t)key->code + 31 * (uintptr_t)key->lasti) ^
              mixed((uintptr_t)key->caller + 31 * (uintptr_t)key->caller_lasti + key->thread),
          IS_KEY, IS_FREE);
#undef IS_KEY
#undef IS_FREE
}

/* Entries are emptied before references go, as letting go may run any code. */
static void
empty_group(Group *g)
{
    PyObject *ref = g->ref, *name = g->name, *sequence = g->sequence;
    memset(g, 0, sizeof *g);
    Py_XDECREF(ref);
    Py_XDECREF(name);
    Py_XDECREF(sequence);
}

static void
empty_site(Site *s)
{
    PyObject *code = s->code, *caller = s->caller;
    memset(s, 0, sizeof *s);
    Py_XDECREF(code);
    Py_XDECREF(caller);
}

static void
empty_kind(Kind *k)
{
    PyObject *type = k->type, *dtype = k->dtype, *numel = k->numel;
    memset(k, 0, sizeof *k);
    Py_XDECREF(type);
    Py_XDECREF(dtype);
    Py_XDECREF(numel);
}

static void
empty_tables(Record *r)
{
    memset(r->elements, 0, sizeof r->elements);
    for (int i = 0; i < KINDS; i++) empty_kind(&r->kinds[i]);
    for (int i = 0; i < GROUPS; i++) empty_group(&r->groups[i]);
    for (int i = 0; i < TYPES; i++) Py_CLEAR(r->types[i].dtype);
    for (int i = 0; i < CODES; i++) Py_CLEAR(r->codes[i].code);
    for (int i = 0; i < SITES; i++) empty_site(&r->sites[i]);
}

/* ---- the call ------------------------------------------------------------------------------- */

/* What the fast path cannot answer is left to the Python path: 0. A KeyboardInterrupt is the user's: -1. */
static int
unknown(void)
{
    if (!PyErr_Occurred()) return 0;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return -1;
    PyErr_Clear();
    return 0;
}

static int
attribute_number(PyObject *object, PyObject *name, long *number)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (!value) return 0;
    *number = PyLong_AsLong(value);
    Py_DECREF(value);
    return !(*number == -1 && PyErr_Occurred());
}

/* The calling frame, NULL where there is none, or with an exception set. */
static PyObject *
calling_frame(PyObject *frame)
{
    if (PyFrame_GetBack) return PyFrame_GetBack(frame);
    PyObject *back = PyObject_GetAttr(frame, s_back);
    if (back == Py_None) Py_CLEAR(back);
    return back;
}

static int
instruction_of(PyObject *frame, long *lasti)
{
    if (!PyFrame_GetLasti) return attribute_number(frame, s_lasti, lasti);
    *lasti = PyFrame_GetLasti(frame);
    return 1;
}

/* The user's line, told apart by the line that called its function; 1 where all of it is known. */
static int
find_site(Record *r, uint32_t *number)
{
    Site key = {0};
    int known = 1;
    PyObject *frame = (PyObject *)PyEval_GetFrame();
    Py_XINCREF(frame);
    while (frame) {
        PyObject *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
        Code *seen = code_at(r, code, 0);
        Py_DECREF(code); /* the frame holds it */
        if (!seen) {
            known = 0;
            break;
        }
        if (!seen->library) {
            long *lasti = key.code ? &key.caller_lasti : &key.lasti;
            if (!instruction_of(frame, lasti)) {
                known = 0;
                break;
            }
            if (key.code) {
                key.caller = code;
                break;
            }
            key.code = code;
        }
        PyObject *back = calling_frame(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    if (!known || (!PyFrame_GetBack && PyErr_Occurred())) return unknown();
    *number = 0;
    if (!key.code) return 1;
    unsigned long thread = PyThread_get_thread_ident();
    key.thread = thread == r->main_thread ? 0 : thread;
    Site *site = site_at(r, &key, 0);
    if (!site) return 0;
    *number = site->number;
    return 1;
}

static Kind *
kind_of(Record *r, PyObject *tensor)
{
    PyObject *type = (PyObject *)Py_TYPE(tensor);
    for (int i = 0; i < KINDS; i++)
        if (r->kinds[i].type == type) return &r->kinds[i];
    return NULL;
}

static PyObject *
dtype_of(Kind *kind, PyObject *tensor)
{
    if (!kind) return PyObject_GetAttr(tensor, s_dtype);
    PyObject *dtype = kind->dtype; /* a subclass may run code of its own, and the table be emptied by it */
    Py_INCREF(dtype);
    PyObject *found = kind->get_dtype(dtype, tensor, (PyObject *)Py_TYPE(tensor));
    Py_DECREF(dtype);
    return found;
}

static PyObject *
numel_of(Kind *kind, PyObject *tensor)
{
    PyObject *numel = kind ? kind->numel : NULL;
    if (!numel) return PyObject_CallMethodObjArgs(tensor, s_numel, NULL);
    Py_INCREF(numel);
    PyObject *found = PyObject_Vectorcall ? PyObject_Vectorcall(numel, &tensor, 1, NULL)
                                          : PyObject_CallFunctionObjArgs(numel, tensor, NULL);
    Py_DECREF(numel);
    return found;
}

/* The entry of that element, else a free one, else none. */
static Element *
element_at(Record *r, uint32_t element)
{
    for (int i = 0; i < ELEMENTS; i++)
        if (r->elements[i].element == element || !r->elements[i].element) return &r->elements[i];
    return NULL;
}

/* The same by DLPack, in half the time; 0 where that is not to be had. Of a type that is not known yet, its element. */
static int
view_size(Record *r, Kind *kind, PyObject *tensor, int64_t *numel, uint16_t *dtype, uint32_t *element)
{
    View view;
    if (!kind || !kind->exchange) return 0;
    if (kind->exchange->view(tensor, &view)) {
        kind->exchange = NULL; /* to raise costs more than to ask */
        return unknown();
    }
    Element *known = element_at(r, view.element);
    if (!known || !known->element) {
        *element = view.element;
        return 0;
    }
    *numel = 1;
    for (int32_t i = 0; i < view.dimensions; i++) *numel *= view.shape[i];
    *dtype = known->number;
    return 1;
}

/* The first tensor's number of elements and type. */
static int
find_size(Record *r, PyObject *args, int64_t *numel, uint16_t *dtype)
{
    PyObject *tensor = PyTuple_Size(args) > 1 ? PyTuple_GetItem(args, 1) : NULL;
    Kind *kind = NULL;
    while (tensor && !(kind = kind_of(r, tensor)) && (PyList_Check(tensor) || PyTuple_Check(tensor))) {
        int is_list = PyList_Check(tensor);
        if (!(is_list ? PyList_Size(tensor) : PyTuple_Size(tensor))) return 0;
        tensor = is_list ? PyList_GetItem(tensor, 0) : PyTuple_GetItem(tensor, 0);
    }
    if (!tensor) return 0;
    uint32_t element = 0;
    int seen = view_size(r, kind, tensor, numel, dtype, &element);
    if (seen) return seen;
    Py_INCREF(tensor); /* another thread may change the list while numel() runs */
    PyObject *type = dtype_of(kind, tensor);
    Type *known = type ? type_at(r, type, 0) : NULL;
    Py_XDECREF(type);
    if (known) *dtype = known->number;
    Element *place = known && element ? element_at(r, element) : NULL;
    if (place) *place = (Element){element, known->number};
    PyObject *count = known ? numel_of(kind, tensor) : NULL;
    Py_DECREF(tensor);
    if (!count) return unknown();
    *numel = PyLong_AsLongLong(count);
    Py_DECREF(count);
    return *numel == -1 && PyErr_Occurred() ? unknown() : 1;
}

/* Of the group's calls since `proven`, the counted ones have no number. */
static void
forget_numbers(Record *r, Group *g)
{
    for (uint64_t i = 0; r->slots && i < r->count; i++) {
        Slot *slot = &r->slots[i];
        if (slot->number > g->proven && slot->group == g->number && slot->tag == COUNTED) slot->seq = -1;
    }
    g->mixed = 1;
}

/* Takes torch's own number of the newest call: either it is the counted one, or something else calls the group. */
static void
settle(Record *r, Group *g, int64_t last)
{
    if (last < g->last + 1 - g->failed || last > g->last + 1) {
        if (g->counted) forget_numbers(r, g);
        g->alone = g->grant = 0;
    } else if (g->alone < ALONE) g->alone++;
    g->counted = g->failed = 0;
    g->proven = r->number;
    g->last = last;
}

/* The collective's number, without those that p2p took. To ask drops the GIL: `taken` is read after it. */
static int
find_seq(Record *r, PyObject *group, Slot *slot)
{
    Group *known = group_at(r, group, 0);
    if (!known) return 0;
    slot->group = known->number;
    if (known->grant > 0) {
        known->grant--;
        known->counted++;
        slot->tag = COUNTED;
        slot->seq = ++known->last;
        return 1;
    }
    PyObject *sequence = known->sequence;
    Py_INCREF(sequence);
    PyObject *before = PyObject_CallFunctionObjArgs(sequence, group, NULL);
    Py_DECREF(sequence);
    if (!before) return unknown();
    int64_t seq = PyLong_AsLongLong(before) + 1;
    Py_DECREF(before);
    if (PyErr_Occurred()) return unknown();
    known = group_at(r, group, 0);
    if (!known) return 0;
    slot->group = known->number;
    slot->seq = seq - known->taken;
    settle(r, known, slot->seq);
    return 1;
}

/* Whether the newest call has been counted by torch is not known when it raised: the next one asks. */
static void
note_failure(Record *r, PyObject *group)
{
    Group *known = group_at(r, group, 0);
    if (!known) return;
    known->grant = 0;
    known->failed++;
}

/* Writes a call of which all is known; its number, 0 where the Python path must, -1: an exception. */
static int64_t
enter(Observed *o, PyObject *args)
{
    Record *r = o->record;
    Slot slot = {.peer = -1, .numel = -1, .op = o->op};
    int known = 1;
    if (!r->slots || !o->op) return 0;
    __builtin_prefetch(slot_of(r, r->number + 1), 1); /* an observer may have read it */
    if (o->sized) known = find_size(r, args, &slot.numel, &slot.dtype);
    if (known == 1) known = find_site(r, &slot.site);
    if (known == 1 && o->rooted) {
        long root = -1;
        Py_ssize_t size = PyTuple_Size(args);
        known = size > 1 && attribute_number(PyTuple_GetItem(args, size - 1), s_root, &root);
        slot.peer = (int32_t)root;
        if (!known) known = unknown();
    }
    if (known == 1) known = find_seq(r, PyTuple_GetItem(args, 0), &slot);
    if (known != 1) return known;
    if (!r->slots) return 0;
    uint64_t number = ++r->number;
    Slot *target = slot_of(r, number);
    /* A slot is valid where both numbers agree, so the first one is written first and the other last. */
    __atomic_store_n(&target->number, number, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    target->entered = now_ns();
    target->left = 0;
    target->seq = slot.seq;
    target->numel = slot.numel;
    target->site = slot.site;
    target->op = slot.op;
    target->group = slot.group;
    target->dtype = slot.dtype;
    target->tag = slot.tag;
    target->peer = slot.peer;
    __atomic_store_n(&target->again, number, __ATOMIC_RELEASE);
    return (int64_t)number;
}

static void
leave(Record *r, uint64_t number)
{
    if (!r->slots) return;
    Slot *slot = slot_of(r, number);
    if (slot->number == number) slot->left = now_ns();
}

/* Our own failure switches recording off and is reported; 0 where the exception is the caller's. */
static int
failed(Record *r)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return 0;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyObject *told = r->fail ? PyObject_CallFunctionObjArgs(r->fail, error, NULL) : NULL;
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    if (!told) return PyErr_Occurred() ? 0 : 1;
    Py_DECREF(told);
    r->off = 1;
    return 1;
}

/* The Python path's begin; NULL without an exception: it failed, and is off from now on. */
static PyObject *
begin_in_python(Observed *o, PyObject *args)
{
    Record *r = o->record;
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_Size(args));
    PyObject *token = rest && r->begin ? PyObject_CallFunctionObjArgs(
                          r->begin, o->name, PyTuple_GetItem(args, 0), rest, NULL) : NULL;
    Py_XDECREF(rest);
    if (!token && PyErr_Occurred()) failed(r);
    return token;
}

/* Its end, with the exception of the call itself set aside; 0 where an exception replaces it. */
static int
end_in_python(Observed *o, PyObject *token, PyObject *args)
{
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyObject *done = o->record->end ? PyObject_CallFunctionObjArgs(
                         o->record->end, token, PyTuple_GetItem(args, 0), NULL) : NULL;
    if (!done && PyErr_Occurred() && !failed(o->record)) {
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(trace);
        return 0;
    }
    Py_XDECREF(done);
    PyErr_Restore(type, error, trace);
    return 1;
}

static PyObject *
observed_call(PyObject *self, PyObject *args, PyObject *kwargs)
{
    Observed *o = (Observed *)self;
    PyObject *token = NULL;
    int64_t number = 0;
    if (!o->record->off && PyTuple_Size(args) > 0) {
        number = enter(o, args);
        if (number < 0) return NULL;
        if (!number) token = begin_in_python(o, args);
        if (!number && PyErr_Occurred()) return NULL;
    }
    PyObject *result = PyObject_Call(o->original, args, kwargs);
    if (number) leave(o->record, (uint64_t)number);
    if (!result && (number || token)) note_failure(o->record, PyTuple_GetItem(args, 0));
    if (token && token != Py_None && !end_in_python(o, token, args)) Py_CLEAR(result);
    Py_XDECREF(token);
    return result;
}

/* ---- the observed function ------------------------------------------------------------------ */

static int
observed_traverse(PyObject *self, visitproc visit, void *arg)
{
    Observed *o = (Observed *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)o->record);
    Py_VISIT(o->original);
    return 0;
}

static void
observed_dealloc(PyObject *self)
{
    Observed *o = (Observed *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)o->record);
    Py_XDECREF(o->original);
    Py_XDECREF(o->name);
    Py_XDECREF(o->doc);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *
observed_know_op(PyObject *self, PyObject *args)
{
    return PyArg_ParseTuple(args, "H", &((Observed *)self)->op) ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef observed_methods[] = {{"know_op", observed_know_op, METH_VARARGS, NULL},
                                         {NULL, NULL, 0, NULL}};
static PyType_Slot observed_slots[] = {
    {Py_tp_traverse, observed_traverse}, {Py_tp_dealloc, observed_dealloc},
    {Py_tp_methods, observed_methods}, {0, NULL}};
static PyType_Spec observed_spec = {"distwatch.agent._calls.Observed", sizeof(Observed), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, observed_slots};

static PyObject *
record_observe(PyObject *self, PyObject *args)
{
    PyObject *name, *original;
    int rooted, sized;
    if (!PyArg_ParseTuple(args, "UOpp", &name, &original, &rooted, &sized)) return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot((PyTypeObject *)observed_type, Py_tp_alloc);
    Observed *o = (Observed *)alloc((PyTypeObject *)observed_type, 0);
    if (!o) return NULL;
    Py_INCREF(self);
    o->record = (Record *)self;
    Py_INCREF(original);
    o->original = original;
    Py_INCREF(name);
    o->name = name;
    o->rooted = rooted;
    o->sized = sized;
    const char *text = PyUnicode_AsUTF8AndSize(name, NULL);
    o->doc = PyObject_GetAttrString(original, "__doc__");
    if (!o->doc) PyErr_Clear();
    const char *doc = o->doc && PyUnicode_Check(o->doc) ? PyUnicode_AsUTF8AndSize(o->doc, NULL) : NULL;
    PyErr_Clear();
    o->definition = (PyMethodDef){text, (PyCFunction)(void (*)(void))observed_call,
                                  METH_VARARGS | METH_KEYWORDS, doc};
    PyObject *module = PyObject_GetAttrString(original, "__module__");
    if (!module) PyErr_Clear();
    PyObject *function = text ? PyCFunction_NewEx(&o->definition, (PyObject *)o, module) : NULL;
    Py_XDECREF(module);
    PyObject *both = function ? PyTuple_Pack(2, function, o) : NULL;
    Py_XDECREF(function);
    Py_DECREF(o);
    return both;
}

/* ---- what the Python path teaches ----------------------------------------------------------- */

static PyObject *
record_know_group(PyObject *self, PyObject *args)
{
    Record *r = (Record *)self;
    PyObject *group, *name, *sequence;
    unsigned short number;
    long long taken, last;
    if (!PyArg_ParseTuple(args, "OUHOLL", &group, &name, &number, &sequence, &taken, &last)) return NULL;
    Group *place = group_at(r, group, 1);
    if (place->group == group && place->number == number) {
        place->taken = taken;
        if (last != place->last) settle(r, place, last);
        Py_RETURN_NONE;
    }
    PyObject *ref = PyWeakref_NewRef(group, r->dropped);
    if (!ref) return NULL;
    place = group_at(r, group, 1); /* to make a reference may collect garbage */
    empty_group(place);
    Py_INCREF(name);
    Py_INCREF(sequence);
    *place = (Group){.group = group, .ref = ref, .name = name, .sequence = sequence, .taken = taken,
                     .last = last, .proven = r->number, .number = number};
    Py_RETURN_NONE;
}

static PyObject *
record_know_dtype(PyObject *self, PyObject *args)
{
    PyObject *dtype;
    unsigned short number;
    if (!PyArg_ParseTuple(args, "OH", &dtype, &number)) return NULL;
    Type *place = type_at((Record *)self, dtype, 1);
    PyObject *old = place->dtype;
    Py_INCREF(dtype);
    *place = (Type){dtype, number};
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *
record_know_tensors(PyObject *self, PyObject *args)
{
    Record *r = (Record *)self;
    PyObject *type, *dtype, *numel, *capsule;
    if (!PyArg_ParseTuple(args, "O!OOO", &PyType_Type, &type, &dtype, &numel, &capsule)) return NULL;
    const Exchange *exchange = NULL;
    if (capsule != Py_None) {
        exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
        if (!exchange) return NULL;
        if (exchange->major != 1 || !exchange->view) exchange = NULL;
    }
    descrgetfunc get = (descrgetfunc)PyType_GetSlot(Py_TYPE(dtype), Py_tp_descr_get);
    for (int i = 0; get && i < KINDS && r->kinds[i].type != type; i++) {
        if (r->kinds[i].type) continue;
        Py_INCREF(type);
        Py_INCREF(dtype);
        Py_INCREF(numel);
        r->kinds[i] = (Kind){type, dtype, numel, get, exchange};
        break;
    }
    Py_RETURN_NONE;
}

static PyObject *
record_know_code(PyObject *self, PyObject *args)
{
    PyObject *code;
    int library;
    if (!PyArg_ParseTuple(args, "Op", &code, &library)) return NULL;
    Code *place = code_at((Record *)self, code, 1);
    PyObject *old = place->code;
    Py_INCREF(code);
    *place = (Code){code, library};
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *
record_know_site(PyObject *self, PyObject *args)
{
    Site key = {0};
    unsigned int number;
    if (!PyArg_ParseTuple(args, "OlOlkI", &key.code, &key.lasti, &key.caller, &key.caller_lasti,
                          &key.thread, &number)) return NULL;
    if (key.caller == Py_None) key.caller = NULL;
    key.number = number;
    Site *place = site_at((Record *)self, &key, 1);
    PyObject *code = place->code, *caller = place->caller;
    Py_INCREF(key.code);
    Py_XINCREF(key.caller);
    *place = key;
    Py_XDECREF(code);
    Py_XDECREF(caller);
    Py_RETURN_NONE;
}

static PyObject *
record_forget_groups(PyObject *self, PyObject *Py_UNUSED(none))
{
    for (int i = 0; i < GROUPS; i++) empty_group(&((Record *)self)->groups[i]);
    Py_RETURN_NONE;
}

static PyObject *
record_drop(PyObject *self, PyObject *ref)
{
    for (int i = 0; i < GROUPS; i++)
        if (((Record *)self)->groups[i].ref == ref) empty_group(&((Record *)self)->groups[i]);
    Py_RETURN_NONE;
}

/* Whether one of the group's calls has not returned. */
static int
is_called(Record *r, Group *g)
{
    for (uint64_t i = 0; r->slots && i < r->count; i++)
        if (r->slots[i].number && r->slots[i].group == g->number && !r->slots[i].left) return 1;
    return 0;
}

static PyObject *
record_agree(PyObject *self, PyObject *args)
{
    Record *r = (Record *)self;
    PyObject *name;
    long long before, enqueued;
    if (!PyArg_ParseTuple(args, "ULL", &name, &before, &enqueued)) return NULL;
    for (int i = 0; i < GROUPS; i++) {
        Group *g = &r->groups[i];
        if (!g->group || g->last != before || PyUnicode_Compare(g->name, name)) continue;
        if (g->last == enqueued) {
            g->counted = g->failed = 0;
            g->proven = r->number;
            g->grant = g->alone >= ALONE && !g->mixed ? GRANT : 0;
            continue;
        }
        if (g->last == enqueued + 1 && is_called(r, g)) continue; /* torch has yet to count that call */
        g->grant = 0;
        /* A call that failed explains that torch has counted fewer; the next call asks, and settles it. */
        if (!g->counted || (g->failed && enqueued <= g->last)) continue;
        forget_numbers(r, g);
        g->counted = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *
record_numbers(PyObject *self, PyObject *Py_UNUSED(none))
{
    Record *r = (Record *)self;
    PyObject *found = PyDict_New();
    for (int i = 0; found && i < GROUPS; i++) {
        if (!r->groups[i].group) continue;
        PyObject *last = PyLong_FromLongLong(r->groups[i].last);
        if (!last || PyDict_SetItem(found, r->groups[i].name, last) < 0) Py_CLEAR(found);
        Py_XDECREF(last);
    }
    return found;
}

static PyObject *
record_attach(PyObject *self, PyObject *args)
{
    Record *r = (Record *)self;
    PyObject *memory;
    Py_ssize_t offset, count, size;
    unsigned long long number;
    void *start;
    if (!PyArg_ParseTuple(args, "OnnK", &memory, &offset, &count, &number)) return NULL;
    PyObject *view = PyMemoryView_FromObject(memory);
    if (!view) return NULL;
    if (PyObject_AsWriteBuffer(view, &start, &size) < 0) {
        Py_DECREF(view);
        return NULL;
    }
    if (count <= 0 || count & (count - 1) || offset < 0 || (uintptr_t)((char *)start + offset) % sizeof(uint64_t) ||
        offset > size || count > (size - offset) / (Py_ssize_t)sizeof(Slot)) {
        Py_DECREF(view);
        PyErr_SetString(PyExc_ValueError, "the ring's slots do not fit into that memory");
        return NULL;
    }
    PyObject *old = r->memory;
    empty_tables(r);
    r->memory = view;
    r->slots = (Slot *)((char *)start + offset);
    r->count = (uint64_t)count;
    r->number = number;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *
record_detach(PyObject *self, PyObject *Py_UNUSED(none))
{
    Record *r = (Record *)self;
    r->slots = NULL;
    empty_tables(r);
    Py_CLEAR(r->memory);
    Py_RETURN_NONE;
}

/* Its functions pass calls through from now on. */
static PyObject *
record_stop(PyObject *self, PyObject *none)
{
    ((Record *)self)->off = 1;
    return record_detach(self, none);
}

static PyObject *
record_next_number(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(++((Record *)self)->number);
}

/* ---- the type ------------------------------------------------------------------------------- */

static int
record_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    Record *r = (Record *)self;
    if (r->begin) {
        PyErr_SetString(PyExc_TypeError, "a record is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOk", &r->begin, &r->end, &r->fail, &r->main_thread)) {
        r->begin = r->end = r->fail = NULL;
        return -1;
    }
    Py_INCREF(r->begin);
    Py_INCREF(r->end);
    Py_INCREF(r->fail);
    r->dropped = PyObject_GetAttrString(self, "_drop");
    return r->dropped ? 0 : -1;
}

static int
record_traverse(PyObject *self, visitproc visit, void *arg)
{
    Record *r = (Record *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(r->begin);
    Py_VISIT(r->end);
    Py_VISIT(r->fail);
    Py_VISIT(r->dropped);
    return 0;
}

static int
record_clear(PyObject *self)
{
    Record *r = (Record *)self;
    r->off = 1;
    r->slots = NULL;
    empty_tables(r);
    Py_CLEAR(r->memory);
    Py_CLEAR(r->begin);
    Py_CLEAR(r->end);
    Py_CLEAR(r->fail);
    Py_CLEAR(r->dropped);
    return 0;
}

static void
record_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    record_clear(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef record_methods[] = {
    {"observe", record_observe, METH_VARARGS, NULL},
    {"attach", record_attach, METH_VARARGS, NULL},
    {"detach", record_detach, METH_NOARGS, NULL},
    {"stop", record_stop, METH_NOARGS, NULL},
    {"next_number", record_next_number, METH_NOARGS, NULL},
    {"know_group", record_know_group, METH_VARARGS, NULL},
    {"know_dtype", record_know_dtype, METH_VARARGS, NULL},
    {"know_tensors", record_know_tensors, METH_VARARGS, NULL},
    {"know_code", record_know_code, METH_VARARGS, NULL},
    {"know_site", record_know_site, METH_VARARGS, NULL},
    {"forget_groups", record_forget_groups, METH_NOARGS, NULL},
    {"agree", record_agree, METH_VARARGS, NULL},
    {"numbers", record_numbers, METH_NOARGS, NULL},
    {"_drop", record_drop, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

static PyType_Slot record_slots[] = {
    {Py_tp_init, record_init}, {Py_tp_traverse, record_traverse}, {Py_tp_clear, record_clear},
    {Py_tp_dealloc, record_dealloc}, {Py_tp_methods, record_methods}, {0, NULL}};
static PyType_Spec record_spec = {"distwatch.agent._calls.CallRecord", sizeof(Record), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, record_slots};

/* Without module state, an interpreter beside the main one cannot load it: there the Python path runs. */
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_calls", NULL, -1, NULL};

PyMODINIT_FUNC
PyInit__calls(void)
{
    if (!(s_back = PyUnicode_InternFromString("f_back")) ||
        !(s_lasti = PyUnicode_InternFromString("f_lasti")) ||
        !(s_dtype = PyUnicode_InternFromString("dtype")) ||
        !(s_numel = PyUnicode_InternFromString("numel")) ||
        !(s_root = PyUnicode_InternFromString("rootRank")) ||
        !(observed_type = PyType_FromSpec(&observed_spec))) return NULL;
    PyObject *record_type = PyType_FromSpec(&record_spec);
    PyObject *module = record_type ? PyModule_Create(&definition) : NULL;
    if (module && (PyModule_AddObject(module, "CallRecord", record_type) < 0 ||
                   PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0)) Py_CLEAR(module);
    return module;
}
