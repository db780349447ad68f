/* The engine's floor: prepared inserts of the same rows through SQLite's C API under the same COMMIT, no logic.
 *
 * floor DATABASE ROWS BATCH SECONDS: the database has the product's tables; ROWS holds rows of the product's own
 * ledger, each as type, client, id, leaf, body with a 4-byte length before it. They are inserted again and again, the
 * time in the id moved on each turn. Prints how many and how long. */
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COLUMNS = 5, ID = 2 };
struct row { const unsigned char *at[COLUMNS]; uint32_t size[COLUMNS]; };

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void must(int code, sqlite3 *db) {
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) fail(sqlite3_errmsg(db));
}

static double now_s(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static unsigned char *whole(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("the rows cannot be read");
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size);
    if (!bytes || fread(bytes, 1, *size, file) != *size) fail("the rows cannot be read");
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    if (argc != 5) fail("floor DATABASE ROWS BATCH SECONDS");
    size_t size, count = 0, capacity = 1024;
    unsigned char *bytes = whole(argv[2], &size);
    struct row *rows = malloc(capacity * sizeof *rows);
    for (size_t at = 0; at < size; count++) {
        if (count == capacity) rows = realloc(rows, (capacity *= 2) * sizeof *rows);
        for (int column = 0; column < COLUMNS; column++) {
            memcpy(&rows[count].size[column], bytes + at, 4);
            rows[count].at[column] = bytes + at + 4;
            at += 4 + rows[count].size[column];
        }
    }
    sqlite3 *db;
    must(sqlite3_open_v2(argv[1], &db, SQLITE_OPEN_READWRITE, NULL), NULL);
    must(sqlite3_exec(db,
                      "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536;"
                      "PRAGMA wal_autocheckpoint=1000; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0",
                      NULL, NULL, NULL), db);
    sqlite3_stmt *begin, *insert, *commit;
    must(sqlite3_prepare_v2(db, "BEGIN IMMEDIATE", -1, &begin, NULL), db);
    must(sqlite3_prepare_v2(db, "INSERT INTO record VALUES(?, ?, ?, ?, NULL, ?, ?)", -1, &insert, NULL), db);
    must(sqlite3_prepare_v2(db, "COMMIT", -1, &commit, NULL), db);
    long batch = atol(argv[3]), done = 0;
    double seconds = atof(argv[4]), began = now_s(), taken = 0;
    unsigned char id[16];
    while (taken < seconds) {
        must(sqlite3_step(begin), db);
        sqlite3_reset(begin);
        for (long n = 0; n < batch; n++, done++) {
            struct row *row = &rows[(size_t)done % count];
            memcpy(id, row->at[ID], 16);
            uint64_t turn = (uint64_t)done / count;
            id[0] = (unsigned char)(0x80 | (turn >> 8));
            id[1] = (unsigned char)turn;
            sqlite3_bind_int64(insert, 1, (1LL << 40) + done);
            sqlite3_bind_text(insert, 2, (const char *)row->at[0], (int)row->size[0], SQLITE_STATIC);
            sqlite3_bind_text(insert, 3, (const char *)row->at[1], (int)row->size[1], SQLITE_STATIC);
            sqlite3_bind_blob(insert, 4, id, 16, SQLITE_STATIC);
            sqlite3_bind_blob(insert, 5, row->at[3], (int)row->size[3], SQLITE_STATIC);
            sqlite3_bind_blob(insert, 6, row->at[4], (int)row->size[4], SQLITE_STATIC);
            must(sqlite3_step(insert), db);
            must(sqlite3_reset(insert), db);
        }
        must(sqlite3_step(commit), db);
        sqlite3_reset(commit);
        taken = now_s() - began;
    }
    printf("{\"count\": %ld, \"seconds\": %.6f}\n", done, taken);
    sqlite3_finalize(begin), sqlite3_finalize(insert), sqlite3_finalize(commit);
    return sqlite3_close(db) != SQLITE_OK;
}
