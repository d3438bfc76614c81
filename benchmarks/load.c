/* A closed-loop MQTT 3.1.1 load generator for the figure "sustained": many devices, QoS 1, each with a fixed number of
 * messages under way. Written in C because a generator in Python takes as much of a two-core machine as the gateway.
 *
 *     load PORT TOKENS.CSV CONNECTIONS WINDOW SECONDS     prints one JSON object; 127.0.0.1 only
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDS = 65536, OUT = 1 << 20, LATENCIES = 1 << 24 };

struct device {
    int fd;
    char name[128], token[128];
    uint32_t seq;
    uint16_t packet_id;
    size_t out_from, out_to, in_have;
    unsigned char in[4];
    double due[IDS];
    char out[OUT];
};

static double started, stop_at;
static uint64_t sent, acked;
static float *latencies;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static char *put_length(char *to, size_t length)
{
    for (; length > 127; length >>= 7)
        *to++ = (char)((length & 127) | 128);
    *to++ = (char)length;
    return to;
}

static char *put_text(char *to, const char *text)
{
    size_t length = strlen(text);
    *to++ = (char)(length >> 8);
    *to++ = (char)length;
    memcpy(to, text, length);
    return to + length;
}

static void flush(struct device *d)
{
    while (d->out_from < d->out_to) {
        ssize_t count = send(d->fd, d->out + d->out_from, d->out_to - d->out_from, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EAGAIN)
                return;
            fail("send");
        }
        d->out_from += (size_t)count;
    }
    d->out_from = d->out_to = 0;
}

static void publish(struct device *d, unsigned count, const char *at)
{
    char topic[160], payload[512];
    snprintf(topic, sizeof topic, "carebell/%s/up", d->name);
    double due = now();
    while (count-- && d->out_to + 1024 < OUT) {
        uint32_t n = ++d->seq;
        int length = snprintf(payload, sizeof payload,
            "{\"seq\":%u,\"at\":\"%s\",\"measurements\":{\"heart_rate_bpm\":%u,\"spo2_percent\":%u,\"systolic_mmhg\":%u,"
            "\"diastolic_mmhg\":%u,\"body_temperature_celsius\":36.%u,\"battery_percent\":%u},\"position\":"
            "{\"latitude\":39.0841%02u,\"longitude\":117.2009%02u,\"accuracy_m\":8,\"source\":\"gnss\"}}",
            n, at, 60 + n % 30, 95 + n % 5, 110 + n % 25, 65 + n % 20, 1 + n % 8, 50 + n % 50, n % 100, 99 - n % 100);
        d->packet_id = d->packet_id == 65535 ? 1 : (uint16_t)(d->packet_id + 1);
        d->due[d->packet_id] = due;
        char *to = d->out + d->out_to;
        *to++ = 0x32;
        to = put_length(to, 4 + strlen(topic) + (size_t)length);
        to = put_text(to, topic);
        *to++ = (char)(d->packet_id >> 8);
        *to++ = (char)d->packet_id;
        memcpy(to, payload, (size_t)length);
        d->out_to = (size_t)(to + length - d->out);
        sent++;
    }
    flush(d);
}

static void connect_device(struct device *d, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    d->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (d->fd < 0 || connect(d->fd, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    char packet[512], body[480], *end = body;
    memcpy(end, "\0\4MQTT\4\302\0\0", 10);
    end = put_text(put_text(put_text(end + 10, d->name), d->name), d->token);
    packet[0] = 0x10;
    char *to = put_length(packet + 1, (size_t)(end - body));
    memcpy(to, body, (size_t)(end - body));
    to += end - body;
    unsigned char answer[4];
    if (write(d->fd, packet, (size_t)(to - packet)) != to - packet || recv(d->fd, answer, 4, MSG_WAITALL) != 4)
        fail(d->name);
    if (answer[0] != 0x20 || answer[3]) {
        fprintf(stderr, "load: %s: refused with code %u\n", d->name, answer[3]);
        exit(1);
    }
}

static unsigned receive(struct device *d)
{
    unsigned char in[65536];
    memcpy(in, d->in, d->in_have);
    ssize_t count = recv(d->fd, in + d->in_have, sizeof in - 4, MSG_DONTWAIT);
    if (count <= 0) {
        if (count < 0 && errno == EAGAIN)
            return 0;
        fail("the connection ended");
    }
    size_t have = (size_t)count + d->in_have, at = 0;
    double t = now();
    unsigned found = 0;
    for (; at + 4 <= have; at += 4, found++)
        if (acked + found < LATENCIES)
            latencies[acked + found] = (float)(t - d->due[in[at + 2] << 8 | in[at + 3]]);
    d->in_have = have - at;
    memcpy(d->in, in + at, d->in_have);
    acked += found;
    return found;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(double share)
{
    size_t count = acked < LATENCIES ? acked : LATENCIES;
    size_t rank = (size_t)(share * (double)count);
    return count ? 1000.0 * (double)latencies[rank < count ? rank : count - 1] : 0;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: load PORT TOKENS.CSV CONNECTIONS WINDOW SECONDS\n");
        return 2;
    }
    int count = atoi(argv[3]), window = atoi(argv[4]), poller = epoll_create1(0);
    struct device **devices = calloc((size_t)count, sizeof *devices);
    latencies = malloc(LATENCIES * sizeof *latencies);
    FILE *tokens = fopen(argv[2], "r");
    if (!tokens || !devices || !latencies)
        fail(argv[2]);
    for (int i = 0; i < count; i++) {
        devices[i] = calloc(1, sizeof **devices);
        if (!devices[i] || fscanf(tokens, " %127[^,],%127[^\r\n]", devices[i]->name, devices[i]->token) != 2)
            fail("tokens");
        connect_device(devices[i], atoi(argv[1]));
        struct epoll_event want = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = devices[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, devices[i]->fd, &want);
    }
    started = now();
    stop_at = started + atof(argv[5]);
    char at[64];
    double stamped = 0, t;
    bool begun = false;
    while ((t = now()) < stop_at || (acked < sent && t < stop_at + 20)) {
        if (t - stamped > 0.001) {
            struct timespec wall;
            struct tm parts;
            char day[32];
            clock_gettime(CLOCK_REALTIME, &wall);
            strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&wall.tv_sec, &parts));
            snprintf(at, sizeof at, "%s.%03ldZ", day, wall.tv_nsec / 1000000);
            stamped = t;
        }
        for (int i = 0; !begun && i < count; i++)
            publish(devices[i], (unsigned)window, at);
        begun = true;
        struct epoll_event ready[256];
        int some = epoll_wait(poller, ready, 256, 10);
        for (int i = 0; i < some; i++) {
            struct device *d = ready[i].data.ptr;
            flush(d);
            for (unsigned found; (found = receive(d));)
                if (t < stop_at)
                    publish(d, found, at);
        }
    }
    double elapsed = now() - started;
    qsort(latencies, acked < LATENCIES ? acked : LATENCIES, sizeof *latencies, ascending);
    printf("{\"sent\":%llu,\"acked\":%llu,\"elapsed_s\":%.3f,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"p999_ms\":%.2f}\n",
           (unsigned long long)sent, (unsigned long long)acked, elapsed, percentile(.5), percentile(.99),
           percentile(.999));
    return acked == sent ? 0 : 1;
}
