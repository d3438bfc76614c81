/* An MQTT 3.1.1 load generator: many devices, QoS 1. Written in C because a generator in Python takes as much of a
 * two-core machine as the gateway. 127.0.0.1 only; prints one JSON object.
 *
 *     load closed PORT TOKENS.CSV CONNECTIONS SECONDS WINDOW            so many messages under way on each connection
 *     load open PORT TOKENS.CSV CONNECTIONS SECONDS RATE PRESSES        messages and presses a second, whatever comes back
 *
 * A time is counted from when a message was due, not from when it was sent. Each device presses once at most; "presses"
 * are the device and the CLOCK_MONOTONIC second when each was due. "late" is by how much this program itself was late
 * with presses. Devices do not wait for the gateway's processors, so it goes before everything else where it may.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDS = 65536, OUT = 1 << 20, LATENCIES = 1 << 24 };

struct device {
    int fd;
    char name[128], token[128];
    uint32_t seq;
    uint16_t packet_id, press_id;
    size_t out_from, out_to, in_have;
    unsigned char in[4];
    double due[IDS];
    char out[OUT];
};

struct times {
    float *seconds;
    size_t count;
};

static double started, stop_at;
static uint64_t sent, acked;
static struct times telemetry, presses, late;
static char at[64];

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

/* Put one message behind what is to be sent; false when there is no room. */
static bool publish(struct device *d, double due, bool press)
{
    if (d->out_to + 1024 >= OUT)
        return false;
    char topic[160], payload[512];
    snprintf(topic, sizeof topic, "carebell/%s/up", d->name);
    uint32_t n = ++d->seq;
    int length = snprintf(payload, sizeof payload, "{\"seq\":%u,\"at\":\"%s\",", n, at);
    if (press)
        length += snprintf(payload + length, sizeof payload - (size_t)length, "\"signals\":[\"sos\"]}");
    else
        length += snprintf(payload + length, sizeof payload - (size_t)length,
            "\"measurements\":{\"heart_rate_bpm\":%u,\"spo2_percent\":%u,\"systolic_mmhg\":%u,"
            "\"diastolic_mmhg\":%u,\"body_temperature_celsius\":36.%u,\"battery_percent\":%u},\"position\":"
            "{\"latitude\":39.0841%02u,\"longitude\":117.2009%02u,\"accuracy_m\":8,\"source\":\"gnss\"}}",
            60 + n % 30, 95 + n % 5, 110 + n % 25, 65 + n % 20, 1 + n % 8, 50 + n % 50, n % 100, 99 - n % 100);
    d->packet_id = d->packet_id == 65535 ? 1 : (uint16_t)(d->packet_id + 1);
    d->due[d->packet_id] = due;
    if (press)
        d->press_id = d->packet_id;
    char *to = d->out + d->out_to;
    *to++ = 0x32;
    to = put_length(to, 4 + strlen(topic) + (size_t)length);
    to = put_text(to, topic);
    *to++ = (char)(d->packet_id >> 8);
    *to++ = (char)d->packet_id;
    memcpy(to, payload, (size_t)length);
    d->out_to = (size_t)(to + length - d->out);
    sent++;
    return true;
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

static void note(struct times *of, double seconds)
{
    if (of->count < LATENCIES)
        of->seconds[of->count++] = (float)seconds;
}

/* Read acknowledgements; how many there were. */
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
    size_t have = (size_t)count + d->in_have, from = 0;
    double t = now();
    unsigned found = 0;
    for (; from + 4 <= have; from += 4, found++) {
        uint16_t id = (uint16_t)(in[from + 2] << 8 | in[from + 3]);
        bool press = id == d->press_id;
        note(press ? &presses : &telemetry, t - d->due[id]);
        if (press)
            d->press_id = 0;
    }
    d->in_have = have - from;
    memcpy(d->in, in + from, d->in_have);
    acked += found;
    return found;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct times *of, double share)
{
    size_t rank = (size_t)(share * (double)of->count);
    return of->count ? 1000.0 * (double)of->seconds[rank < of->count ? rank : of->count - 1] : 0;
}

/* Before the gateway, its database, and what else runs here; an error means that nobody may, and "late" tells of it. */
static void go_first(void)
{
    setpriority(PRIO_PROCESS, 0, -15);
    if (setsid() < 0) /* only the leader of a session may weigh it: sched(7), autogroup */
        return;
    FILE *group = fopen("/proc/self/autogroup", "w");
    if (group) {
        fputs("-15", group);
        fclose(group);
    }
}

static void show(const char *name, struct times *of)
{
    qsort(of->seconds, of->count, sizeof *of->seconds, ascending);
    printf("\"%s\":{\"count\":%zu,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"p999_ms\":%.2f,\"max_ms\":%.2f}", name,
           of->count, percentile(of, .5), percentile(of, .99), percentile(of, .999), percentile(of, 1));
}

static void stamp(double t)
{
    static double stamped;
    if (t - stamped <= 0.001)
        return;
    struct timespec wall;
    struct tm parts;
    char day[32];
    clock_gettime(CLOCK_REALTIME, &wall);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&wall.tv_sec, &parts));
    snprintf(at, sizeof at, "%s.%03ldZ", day, wall.tv_nsec / 1000000);
    stamped = t;
}

/* Fetch what came; with ``again``, send as many as were acknowledged. */
static void serve(int poller, int wait_ms, bool again)
{
    struct epoll_event ready[256];
    int some = epoll_wait(poller, ready, 256, wait_ms);
    double t = now();
    stamp(t);
    for (int i = 0; i < some; i++) {
        struct device *d = ready[i].data.ptr;
        flush(d);
        for (unsigned found; (found = receive(d));) {
            while (again && t < stop_at && found-- && publish(d, t, false))
                ;
            flush(d);
        }
    }
}

static void closed_loop(struct device **devices, int count, int poller, int window)
{
    for (int i = 0; i < count; i++) {
        for (int n = 0; n < window; n++)
            publish(devices[i], started, false);
        flush(devices[i]);
    }
    while (now() < stop_at)
        serve(poller, 10, true);
}

static void open_loop(struct device **devices, int count, int poller, double rate, double presses_per_s)
{
    uint64_t messages = 0, pressed = 0;
    /* Where all devices speak within a second they do so before anybody presses: a device's first message costs more. */
    double first = started + (rate >= count ? 1.0 : 0.0);
    printf("\"presses\":[");
    for (double t; (t = now()) < stop_at;) {
        for (; (double)messages < (t - started) * rate; messages++) {
            struct device *d = devices[messages % (uint64_t)count];
            publish(d, started + (double)messages / rate, false);
            flush(d);
        }
        for (; (double)pressed < (t - first) * presses_per_s && pressed < (uint64_t)count; pressed++) {
            struct device *d = devices[pressed];
            double due = first + (double)pressed / presses_per_s;
            publish(d, due, true);
            flush(d);
            note(&late, now() - due);
            printf("%s[\"%s\",%.6f]", pressed ? "," : "", d->name, due);
        }
        serve(poller, 1, false);
    }
    printf("],");
}

int main(int argc, char **argv)
{
    bool open = argc == 8 && !strcmp(argv[1], "open");
    if (!open && (argc != 7 || strcmp(argv[1], "closed"))) {
        fprintf(stderr, "usage: load closed PORT TOKENS.CSV CONNECTIONS SECONDS WINDOW\n"
                        "       load open PORT TOKENS.CSV CONNECTIONS SECONDS RATE PRESSES\n");
        return 2;
    }
    int count = atoi(argv[4]), poller = epoll_create1(0);
    struct device **devices = calloc((size_t)count, sizeof *devices);
    telemetry.seconds = malloc(LATENCIES * sizeof *telemetry.seconds);
    presses.seconds = malloc(LATENCIES * sizeof *presses.seconds);
    late.seconds = malloc((size_t)count * sizeof *late.seconds);
    FILE *tokens = fopen(argv[3], "r");
    if (!tokens || !devices || !telemetry.seconds || !presses.seconds || !late.seconds)
        fail(argv[3]);
    for (int i = 0; i < count; i++) {
        devices[i] = calloc(1, sizeof **devices);
        if (!devices[i] || fscanf(tokens, " %127[^,],%127[^\r\n]", devices[i]->name, devices[i]->token) != 2)
            fail("tokens");
        connect_device(devices[i], atoi(argv[2]));
        struct epoll_event want = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = devices[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, devices[i]->fd, &want);
    }
    go_first();
    started = now();
    stop_at = started + atof(argv[5]);
    stamp(started);
    printf("{");
    if (open)
        open_loop(devices, count, poller, atof(argv[6]), atof(argv[7]));
    else
        closed_loop(devices, count, poller, atoi(argv[6]));
    while (acked < sent && now() < stop_at + 20)
        serve(poller, 10, false);
    printf("\"sent\":%llu,\"acked\":%llu,\"elapsed_s\":%.3f,", (unsigned long long)sent, (unsigned long long)acked,
           now() - started);
    show("telemetry", &telemetry);
    printf(",");
    show("sos", &presses);
    printf(",");
    show("late", &late);
    printf("}\n");
    return acked == sent ? 0 : 1;
}
