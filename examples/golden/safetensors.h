/* Read and write float32 arrays of a .safetensors file: 8 bytes that give the length of a JSON header, the header
   (dtype, shape, data_offsets of each array), and the arrays' bytes. Little-endian, as the file is. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *file_bytes(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END)) { perror(path); exit(2); }
  long n = ftell(f);
  char *bytes = calloc(n + 1, 1);
  rewind(f);
  if (fread(bytes, 1, n, f) != (size_t)n) { perror(path); exit(2); }
  fclose(f);
  return bytes;
}

/* The array of that name, and its shape. */
static float *read_float32(const char *path, const char *name, int rank, long *shape) {
  char *bytes = file_bytes(path), key[80];
  uint64_t length;
  memcpy(&length, bytes, 8);
  snprintf(key, sizeof key, "\"%s\":{\"dtype\":\"F32\",\"shape\":[", name);
  char *at = strstr(bytes + 8, key);
  if (!at) { fprintf(stderr, "%s has no float32 array %s\n", path, name); exit(2); }
  at += strlen(key);
  for (int i = 0; i < rank; i++) shape[i] = strtol(at, &at, 10), at++;
  long begin, end;
  if (sscanf(strstr(at, "data_offsets") + 14, "[%ld,%ld]", &begin, &end) != 2) exit(2);
  float *numbers = malloc(end - begin);
  memcpy(numbers, bytes + 8 + length + begin, end - begin);
  free(bytes);
  return numbers;
}

/* A file with two arrays, the first a matrix, the second a vector. */
static void write_float32(const char *path, const char *first, const float *a, long rows, long columns,
                          const char *second, const float *b, long size) {
  char header[400];
  long middle = 4 * rows * columns, end = middle + 4 * size;
  snprintf(header, sizeof header,
           "{\"%s\":{\"dtype\":\"F32\",\"shape\":[%ld,%ld],\"data_offsets\":[0,%ld]},"
           "\"%s\":{\"dtype\":\"F32\",\"shape\":[%ld],\"data_offsets\":[%ld,%ld]}}",
           first, rows, columns, middle, second, size, middle, end);
  uint64_t length = strlen(header);
  FILE *f = fopen(path, "wb");
  if (!f) { perror(path); exit(2); }
  fwrite(&length, 8, 1, f);
  fwrite(header, 1, length, f);
  fwrite(a, 4, rows * columns, f);
  fwrite(b, 4, size, f);
  fclose(f);
}
