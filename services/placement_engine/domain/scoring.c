/* The scoring pass over a few rows, as `Pipeline.score` and `HostingValue.lost` do it in arrays, to the last bit:
 * the same operations on doubles in the same order, sums as numpy orders them, no contraction (see setup in
 * pyproject.toml). `compiled.py` says which asks are scored here; it fills the structures, whose fields it mirrors.
 */

#include <math.h>
#include <stdint.h>

#define MOST_SLOTS 64
#define MOST_KINDS 128 /* numpy adds up to 128 values in one block */
#define WHOLE_DEVICE 1000

enum form { OF_MODEL, OF_COLUMN, OF_STEPS, OF_HOSTING };

typedef struct {
    const double *row, *device; /* packed: (rows, row_columns), (rows, device_columns, slots) */
    const int64_t *model, *executors;
    int64_t row_columns, device_columns, slots;
} Columns;

typedef struct {
    /* Value: of ExpectedFill ... */
    int64_t kinds;
    const double *table, *per_cpu, *per_memory, *weights;
    int64_t rests; /* sizes of several devices that bound; 0: none */
    const int64_t *rest_size, *rest_of; /* of each kind: 0, or one more than the index of its size */
    const double *rest_filled, *whole_filled;
    /* ... of the special kinds ... */
    int64_t specials, sizes;
    const double *fits;
    const int64_t *size;
    const double *count, *allowed, *needs_cpu, *needs_memory, *worth;
    /* ... and of the CPU that devices will not need. */
    int64_t spare_kinds;
    const double *spare_cpu, *spare_memory, *spare_worth;
    double cpu_per_milli;
} Value;

typedef struct {
    /* Filters: floors by model, the tiers that pass, and the watts that a member adds, by model. */
    int64_t models, executor, row_first, row_floored, device_first, device_floored;
    const double *row_floors, *device_floors;
    int64_t blocked, tier, idle_watts, node_watts, free, cpu, memory, cpu_total, accelerators; /* columns */
    const uint8_t *tiers;
    const double *watts;
    int64_t whole; /* devices of which each may be idle; 0: the watts are added as they are */
    int64_t needed; /* devices; 0: work of CPUs alone */
    /* The kind of work. */
    double kind_cpu, kind_memory, scale;
    int64_t devices, milli, fraction;
    /* Scores. */
    int64_t scores;
    const int64_t *form, *column;
    const double *const *values;
    const double *weights;
} Ask;

#define VERSION 3 /* compiled.py has the same */
int64_t scoring_layout(void) {
    return (((int64_t)VERSION * 1000 + sizeof(Columns)) * 1000 + sizeof(Value)) * 1000 + sizeof(Ask);
}

/* What numpy adds up to for n <= 128 contiguous values. */
static double sum(const double *a, int64_t n) {
    if (n < 8) {
        double few = -0.0;
        for (int64_t i = 0; i < n; i++) few += a[i];
        return few;
    }
    double r[8];
    int64_t i = 8, j;
    for (j = 0; j < 8; j++) r[j] = a[j];
    for (; i < n - n % 8; i += 8)
        for (j = 0; j < 8; j++) r[j] += a[i + j];
    double all = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; i++) all += a[i];
    return all;
}

static double least(double a, double b) { return a < b ? a : b; }
static double most(double a, double b) { return a > b ? a : b; }

/* Rests.bound: the first is for kinds of one device, the others by size. */
static void bound(const Value *v, int64_t model, const int64_t *left, int64_t slots, double devices, double *of) {
    int64_t free = 0;
    for (int64_t s = 0; s < slots; s++) free += left[s] == WHOLE_DEVICE;
    of[0] = devices;
    for (int64_t z = 0; z < v->rests; z++) {
        double hosted = (double)(free / v->rest_size[z] * v->rest_size[z]) * v->whole_filled[model];
        of[z + 1] = hosted + most(devices - hosted, 0.0) * v->rest_filled[model * v->rests + z];
    }
}

/* SpareCpu.of */
static double spare(const Value *v, const int64_t *left, int64_t slots, double cpu, double memory) {
    double part[MOST_KINDS];
    int64_t milli = 0;
    for (int64_t s = 0; s < slots; s++) milli += left[s];
    double over = most(cpu - (double)milli * v->cpu_per_milli, 0.0);
    for (int64_t k = 0; k < v->spare_kinds; k++)
        part[k] = floor(least(over / v->spare_cpu[k], memory / v->spare_memory[k])) * v->spare_worth[k];
    return sum(part, v->spare_kinds);
}

/* HostingValue.of */
static double value_of(const Value *v, int64_t model, const int64_t *left, int64_t slots, double cpu, double memory) {
    double part[MOST_KINDS], fits[MOST_KINDS], bounds[MOST_KINDS + 1];
    const double *table = v->table + model * (WHOLE_DEVICE + 1), *weights = v->weights + model * v->kinds;
    double devices = table[left[0]];
    for (int64_t s = 1; s < slots; s++) devices += table[left[s]];
    if (v->rests) bound(v, model, left, slots, devices, bounds);
    for (int64_t k = 0; k < v->kinds; k++) {
        double most_filled = v->rests ? bounds[v->rest_of[k]] : devices;
        part[k] = least(least(cpu * v->per_cpu[k], memory * v->per_memory[k]), most_filled) * weights[k];
    }
    double filled = sum(part, v->kinds), worth = 0.0;
    if (v->specials) {
        for (int64_t z = 0; z < v->sizes; z++) {
            fits[z] = 0.0;
            for (int64_t s = 0; s < slots; s++) fits[z] += v->fits[left[s] * v->sizes + z];
        }
        const double *allowed = v->allowed + model * v->specials;
        for (int64_t k = 0; k < v->specials; k++) {
            double hosts = floor(fits[v->size[k]] / v->count[k]) * allowed[k];
            hosts = least(least(hosts, cpu / v->needs_cpu[k]), memory / v->needs_memory[k]);
            part[k] = (hosts >= 1 ? hosts : 0.0) * v->worth[k];
        }
        worth = sum(part, v->specials);
    }
    if (v->spare_kinds) worth += spare(v, left, slots, cpu, memory);
    return filled + worth;
}

/* HostingValue.lost: `left` is written to. */
static double lost_on(const Value *v, const Ask *a, int64_t model, int64_t *left, int64_t slots, const uint8_t *usable,
                      double cpu, double memory) {
    double before = value_of(v, model, left, slots, cpu, memory);
    int64_t tightest = 0, closest = WHOLE_DEVICE + 1, wanted = a->devices;
    for (int64_t s = 0; s < slots; s++) { /* Room.without */
        if (!usable[s] || left[s] < a->milli) continue;
        if (a->fraction) {
            if (left[s] < closest) tightest = s, closest = left[s];
        } else if (wanted > 0) {
            left[s] = 0, wanted--;
        }
    }
    if (a->fraction) left[tightest] = left[tightest] > a->milli ? left[tightest] - a->milli : 0;
    double after = value_of(v, model, left, slots, most(cpu - a->kind_cpu, 0.0), most(memory - a->kind_memory, 0.0));
    return most(before - after, 0.0);
}

/* Fragmentation.values */
static double packing(const Value *v, const Ask *a, const Columns *c, int64_t model, const double *row,
                      const double *device, const uint8_t *usable) {
    int64_t left[MOST_SLOTS];
    for (int64_t s = 0; s < c->slots; s++) left[s] = (int64_t)most(device[a->free * c->slots + s], 0.0);
    double cpu = row[a->cpu];
    double lost = lost_on(v, a, model, left, c->slots, usable, most(cpu, 0.0), most(row[a->memory], 0.0));
    if (a->devices) {
        double wasted = (lost - (double)(a->devices * a->milli)) / a->scale;
        return 0.5 - 0.5 * wasted / (1.0 + fabs(wasted));
    }
    double stays = least(most((cpu - a->kind_cpu) / most(row[a->cpu_total], 1.0), 0.0), 1.0);
    double value = 0.7 + 0.2 * (row[a->accelerators] == 0.0) + 0.1 * (1.0 - stays);
    return value / (1.0 + lost / a->scale);
}

/* score (rows), terms (rows, scores) and usable (rows, slots) of these k rows; score is `excluded` where one cannot. */
void score_rows(const Columns *c, const Ask *a, const Value *v, const int64_t *rows, int64_t k, double excluded,
                double *score, float *terms, uint8_t *usable) {
    for (int64_t i = 0; i < k; i++) {
        int64_t at = rows[i], model = c->model[at], able = 0;
        const double *row = c->row + at * c->row_columns;
        const double *device = c->device + at * c->device_columns * c->slots;
        const double *row_floors = a->row_floors + model * a->row_floored;
        const double *device_floors = a->device_floors + model * a->device_floored;
        uint8_t *mine = usable + at * c->slots;
        score[at] = excluded;
        if (model >= a->models) continue;
        for (int64_t s = 0; s < c->slots; s++) {
            int passes = a->needed && device[a->blocked * c->slots + s] == 0.0;
            for (int64_t f = 0; f < a->device_floored; f++)
                passes &= device[(a->device_first + f) * c->slots + s] >= device_floors[f];
            mine[s] = (uint8_t)passes;
            able += passes;
        }
        int passes = able >= a->needed && a->tiers[(int64_t)row[a->tier]];
        if (a->executor) passes &= a->executor > 0 && (c->executors[at] & a->executor) != 0;
        for (int64_t f = 0; f < a->row_floored; f++) passes &= row[a->row_first + f] >= row_floors[f];
        double added = a->watts[model];
        if (a->whole) added = most(added - row[a->idle_watts], 0.0) * (double)a->whole;
        if (!passes || !(row[a->node_watts] >= added)) continue;
        double total = 0.0;
        for (int64_t t = 0; t < a->scores; t++) {
            double term = 0.0;
            switch (a->form[t]) {
            case OF_MODEL: term = a->values[t][model]; break;
            case OF_COLUMN: term = row[a->column[t]]; break;
            case OF_STEPS: term = a->values[t][(int64_t)row[a->column[t]]]; break;
            case OF_HOSTING: term = packing(v, a, c, model, row, device, mine); break;
            }
            terms[at * a->scores + t] = (float)term;
            total += a->weights[t] * term;
        }
        score[at] = total;
    }
}
