/* One end of a session that is nothing but OpenSSL over TCP, blocking, in C: what the machine can
 * do. A message is its length, 4 bytes, and its body, written with one SSL_write. It understands as
 * much of the commands of _flow.py as throughput.py uses. Compiled by _children.py; argv[3] is the
 * path of the certificate, with the key beside it. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static SSL *session;
static unsigned char *buffer; /* one message, with its length */
static size_t capacity;
static long received;
static double received_bytes, first_at, last_at, received_cpu;

static void fail(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

static void reserve(size_t size) {
    if (size > capacity && !(buffer = realloc(buffer, capacity = size))) fail("realloc");
}

/* The number that a command has under a name; commands are Python's JSON. */
static long argument(const char *line, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(line, key);
    return at ? atol(at + strlen(key)) : 0;
}

static void read_exactly(unsigned char *to, size_t size) {
    while (size) {
        int got = SSL_read(session, to, size > INT32_MAX ? INT32_MAX : (int)size);
        if (got <= 0) fail("SSL_read");
        to += got;
        size -= got;
    }
}

static size_t read_message(void) {
    unsigned char head[4];
    read_exactly(head, 4);
    size_t size = (size_t)head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
    reserve(size);
    read_exactly(buffer, size);
    return size;
}

static void write_message(size_t size) {
    for (int place = 0; place < 4; place++) buffer[place] = size >> (24 - 8 * place);
    if (SSL_write(session, buffer, (int)size + 4) <= 0) fail("SSL_write");
}

static void count_messages(long count, long every) {
    double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    received_bytes = 0;
    for (received = 0; received < count;) {
        received_bytes += read_message();
        if (++received == 1) first_at = now(CLOCK_MONOTONIC);
        if (received == count) last_at = now(CLOCK_MONOTONIC);
        if (received % every == 0) {
            reserve(16);
            write_message(3);
        }
    }
    received_cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

static double send_messages(long count, long size, long window, long every) {
    double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    unsigned char acknowledgement[7];
    long acknowledged = 0;
    reserve(size + 4);
    memset(buffer, 0, size + 4);
    for (long number = 0; number < count; number++) {
        while (number - acknowledged >= window) {
            read_exactly(acknowledgement, sizeof acknowledgement);
            acknowledged += every;
        }
        write_message(size);
    }
    for (; acknowledged < count; acknowledged += every)
        read_exactly(acknowledgement, sizeof acknowledgement);
    return now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

static int any(int ok, X509_STORE_CTX *context) {
    (void)ok, (void)context;
    return 1;
}

static SSL_CTX *context(const char *certificate) {
    char key[4096];
    snprintf(key, sizeof key, "%.*s.key", (int)strlen(certificate) - 4, certificate);
    SSL_CTX *made = SSL_CTX_new(TLS_method());
    if (!made || SSL_CTX_use_certificate_file(made, certificate, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(made, key, SSL_FILETYPE_PEM) != 1)
        fail(certificate);
    SSL_CTX_set_verify(made, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, any);
    SSL_CTX_set_mode(made, SSL_MODE_AUTO_RETRY);
    return made;
}

static void secure(SSL_CTX *tls, int connected, int accepts) {
    int yes = 1;
    setsockopt(connected, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    session = SSL_new(tls);
    SSL_set_fd(session, connected);
    if ((accepts ? SSL_accept(session) : SSL_connect(session)) != 1) fail("TLS");
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *tls = context(arguments[3]);
    struct sockaddr_in here = {.sin_family = AF_INET};
    socklen_t length = sizeof here;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listening, (struct sockaddr *)&here, length) || listen(listening, 8)) fail("listen");
    getsockname(listening, (struct sockaddr *)&here, &length);
    setvbuf(stdout, NULL, _IOLBF, 0);
    setvbuf(stdin, NULL, _IONBF, 0); /* poll() must see every line */
    printf("{\"port\": %d}\n", ntohs(here.sin_port));

    char line[4096];
    struct pollfd ready[2] = {{.fd = 0, .events = POLLIN}, {.fd = listening, .events = POLLIN}};
    while (poll(ready, 2, -1) > 0) {
        if (ready[1].revents) secure(tls, accept(listening, NULL, NULL), 1);
        if (!ready[0].revents) continue;
        if (!fgets(line, sizeof line, stdin)) return 0;
        if (strstr(line, "\"do\": \"dial\"")) {
            here.sin_port = htons((uint16_t)argument(line, "port"));
            int connected = socket(AF_INET, SOCK_STREAM, 0);
            if (connect(connected, (struct sockaddr *)&here, length)) fail("connect");
            secure(tls, connected, 0);
            puts("{}");
        } else if (strstr(line, "\"do\": \"sessions\"")) {
            printf("{\"sessions\": %d}\n", session != NULL);
        } else if (strstr(line, "\"do\": \"expect\"")) {
            puts("{}");
            count_messages(argument(line, "count"), argument(line, "every"));
        } else if (strstr(line, "\"do\": \"report\"")) {
            printf("{\"received\": %ld, \"bytes\": %.0f, \"seconds\": %.9f, \"cpu\": %.9f}\n",
                   received, received_bytes, last_at - first_at, received_cpu);
        } else if (strstr(line, "\"do\": \"send\"")) {
            printf("{\"cpu\": %.9f}\n",
                   send_messages(argument(line, "count"), argument(line, "size"),
                                 argument(line, "window"), argument(line, "every")));
        } else {
            fprintf(stderr, "unknown: %s", line);
            return 2;
        }
    }
    return 1;
}
