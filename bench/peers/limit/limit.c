// Limit answers every request with the same bytes: what an event loop over epoll
// costs that looks neither at a request nor anything up. Over TLS by OpenSSL, if
// there is a certificate.
//
//	limit PORT ANSWER-FILE [deferred] [CERTIFICATE-AND-KEY.pem]
//
// It closes after a request that says "Connection: close".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CONNS = 65536, EVENTS = 512, ACCEPTS = 64 };

static char in[16384], answer[4096];
static int answer_size;
static SSL_CTX *tls;            // null: plain
static SSL *sessions[MAX_CONNS]; // by descriptor

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static int hangs_up(const char *request, int size) {
	static const char last[] = "Connection: close\r\n\r\n";
	int n = sizeof last - 1;
	return size >= n && memcmp(request + size - n, last, n) == 0;
}

static void end(int fd) {
	if (sessions[fd]) {
		SSL_free(sessions[fd]);
		sessions[fd] = NULL;
	}
	close(fd);
}

// Whether the connection is still there.
static int serve_plain(int fd) {
	int n = recv(fd, in, sizeof in, 0);
	if (n < 0 && errno == EAGAIN)
		return 1;
	if (n <= 0 || send(fd, answer, answer_size, MSG_NOSIGNAL) != answer_size || hangs_up(in, n)) {
		end(fd);
		return 0;
	}
	return 1;
}

static void serve_tls(int fd) {
	SSL *s = sessions[fd];
	do {
		int n = SSL_read(s, in, sizeof in);
		if (n <= 0) {
			int why = SSL_get_error(s, n);
			if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
				end(fd);
			return;
		}
		if (SSL_write(s, answer, answer_size) <= 0) {
			end(fd);
			return;
		}
		if (hangs_up(in, n)) {
			SSL_shutdown(s);
			end(fd);
			return;
		}
	} while (SSL_has_pending(s));
}

static void accept_some(int epoll, int listener, int deferred) {
	for (int i = 0; i < ACCEPTS; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		if (fd < 0)
			return;
		if (fd >= MAX_CONNS) {
			close(fd);
			continue;
		}
		if (tls) {
			sessions[fd] = SSL_new(tls);
			SSL_set_fd(sessions[fd], fd);
			SSL_set_accept_state(sessions[fd]);
		} else if (deferred && !serve_plain(fd)) { // the request is here already
			continue;
		}
		struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
	}
}

static SSL_CTX *new_tls(const char *pem) {
	SSL_CTX *c = SSL_CTX_new(TLS_server_method());
	if (SSL_CTX_use_certificate_chain_file(c, pem) != 1 || SSL_CTX_use_PrivateKey_file(c, pem, SSL_FILETYPE_PEM) != 1) {
		fprintf(stderr, "cannot use %s\n", pem);
		exit(1);
	}
	SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF); // sessions are in tickets
	SSL_CTX_set_read_ahead(c, 1);
	SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS);
	return c;
}

int main(int argc, char **argv) {
	if (argc < 3) {
		fprintf(stderr, "usage: limit PORT ANSWER-FILE [deferred] [CERTIFICATE-AND-KEY.pem]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN); // OpenSSL writes without MSG_NOSIGNAL
	FILE *f = fopen(argv[2], "r");
	if (!f)
		fail(argv[2]);
	answer_size = fread(answer, 1, sizeof answer, f);
	int deferred = argc > 3 && strcmp(argv[3], "deferred") == 0;
	if (argc > 3 + deferred)
		tls = new_tls(argv[3 + deferred]);

	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (deferred)
		setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &one, sizeof one);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
	if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096))
		fail("listen");
	int epoll = epoll_create1(0);
	struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
	for (;;) {
		int n = epoll_wait(epoll, events, EVENTS, -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listener)
				accept_some(epoll, listener, deferred);
			else if (tls)
				serve_tls(fd);
			else
				serve_plain(fd);
		}
	}
}
