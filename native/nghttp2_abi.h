/* The part of libnghttp2's public interface that the engine uses.
 *
 * The functions are those that the `ngh2` package has in its own library: they are found there when the module is imported, so that
 * one copy of libnghttp2 serves both, and nothing but a C compiler is needed to build this. Names, numbers and layouts are
 * libnghttp2's, and stable since 1.0 (https://nghttp2.org/documentation/apiref.html).
 */
#ifndef ANABRANCH_NGHTTP2_ABI_H
#define ANABRANCH_NGHTTP2_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef ptrdiff_t nghttp2_ssize;
typedef struct nghttp2_session nghttp2_session;
typedef struct nghttp2_session_callbacks nghttp2_session_callbacks;
typedef struct nghttp2_option nghttp2_option;
typedef struct nghttp2_rcbuf nghttp2_rcbuf;

typedef struct {
  uint8_t *base;
  size_t len;
} nghttp2_vec;

typedef struct {
  uint8_t *name;
  uint8_t *value;
  size_t namelen;
  size_t valuelen;
  uint8_t flags;
} nghttp2_nv;

#define NGHTTP2_NV_FLAG_NONE 0
#define NGHTTP2_NV_FLAG_NO_INDEX 1

typedef struct {
  size_t length;
  int32_t stream_id;
  uint8_t type;
  uint8_t flags;
  uint8_t reserved;
} nghttp2_frame_hd;

typedef struct {
  int32_t stream_id;
  int32_t weight;
  uint8_t exclusive;
} nghttp2_priority_spec;

typedef struct {
  nghttp2_frame_hd hd;
  size_t padlen;
} nghttp2_data;

typedef struct {
  nghttp2_frame_hd hd;
  size_t padlen;
  nghttp2_priority_spec pri_spec;
  nghttp2_nv *nva;
  size_t nvlen;
  int cat;
} nghttp2_headers;

typedef struct {
  nghttp2_frame_hd hd;
  uint32_t error_code;
} nghttp2_rst_stream;

typedef struct {
  int32_t settings_id;
  uint32_t value;
} nghttp2_settings_entry;

typedef struct {
  nghttp2_frame_hd hd;
  uint8_t opaque_data[8];
} nghttp2_ping;

typedef struct {
  nghttp2_frame_hd hd;
  int32_t last_stream_id;
  uint32_t error_code;
  uint8_t *opaque_data;
  size_t opaque_data_len;
  uint8_t reserved;
} nghttp2_goaway;

typedef union {
  nghttp2_frame_hd hd;
  nghttp2_data data;
  nghttp2_headers headers;
  nghttp2_rst_stream rst_stream;
  nghttp2_ping ping;
  nghttp2_goaway goaway;
} nghttp2_frame;

typedef union {
  int fd;
  void *ptr;
} nghttp2_data_source;

typedef nghttp2_ssize (*nghttp2_read_cb)(nghttp2_session *, int32_t, uint8_t *, size_t, uint32_t *, nghttp2_data_source *, void *);

typedef struct {
  nghttp2_data_source source;
  nghttp2_read_cb read_callback;
} nghttp2_data_provider2;

typedef nghttp2_ssize (*nghttp2_send_cb)(nghttp2_session *, const uint8_t *, size_t, int, void *);
typedef int (*nghttp2_send_data_cb)(nghttp2_session *, nghttp2_frame *, const uint8_t *, size_t, nghttp2_data_source *, void *);
typedef int (*nghttp2_frame_cb)(nghttp2_session *, const nghttp2_frame *, void *);
typedef int (*nghttp2_chunk_cb)(nghttp2_session *, uint8_t, int32_t, const uint8_t *, size_t, void *);
typedef int (*nghttp2_close_cb)(nghttp2_session *, int32_t, uint32_t, void *);
typedef int (*nghttp2_header_cb)(nghttp2_session *, const nghttp2_frame *, nghttp2_rcbuf *, nghttp2_rcbuf *, uint8_t, void *);
typedef int (*nghttp2_not_send_cb)(nghttp2_session *, const nghttp2_frame *, int, void *);

enum {
  NGHTTP2_FRAME_DATA = 0,
  NGHTTP2_FRAME_HEADERS = 1,
  NGHTTP2_FRAME_RST_STREAM = 3,
  NGHTTP2_FRAME_SETTINGS = 4,
  NGHTTP2_FRAME_PING = 6,
  NGHTTP2_FRAME_GOAWAY = 7,
  NGHTTP2_FLAG_END_STREAM = 0x01,
  NGHTTP2_FLAG_ACK = 0x01,
  NGHTTP2_CAT_REQUEST = 0,
  NGHTTP2_DATA_FLAG_EOF = 0x01,
  NGHTTP2_DATA_FLAG_NO_END_STREAM = 0x02,
  NGHTTP2_DATA_FLAG_NO_COPY = 0x04,
  NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS = 3,
  NGHTTP2_INTERNAL_ERROR = 2,
  NGHTTP2_ERR_WOULDBLOCK = -504,
  NGHTTP2_ERR_DEFERRED = -508,
  NGHTTP2_ERR_STREAM_CLOSED = -510,
  NGHTTP2_ERR_STREAM_CLOSING = -511,
  NGHTTP2_ERR_STREAM_SHUT_WR = -512,
  NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE = -521,
  NGHTTP2_ERR_SESSION_CLOSING = -530,
  NGHTTP2_ERR_CALLBACK_FAILURE = -902
};

/* By name: what it returns, and what it takes. */
#define NGHTTP2_FUNCTIONS(F)                                                                                                       \
  F(const char *, strerror, (int))                                                                                                 \
  F(int, is_fatal, (int))                                                                                                          \
  F(void, rcbuf_incref, (nghttp2_rcbuf *))                                                                                         \
  F(void, rcbuf_decref, (nghttp2_rcbuf *))                                                                                         \
  F(nghttp2_vec, rcbuf_get_buf, (nghttp2_rcbuf *))                                                                                 \
  F(int, option_new, (nghttp2_option **))                                                                                          \
  F(void, option_del, (nghttp2_option *))                                                                                          \
  F(void, option_set_no_auto_window_update, (nghttp2_option *, int))                                                               \
  F(void, option_set_max_send_header_block_length, (nghttp2_option *, size_t))                                                     \
  F(int, session_callbacks_new, (nghttp2_session_callbacks **))                                                                    \
  F(void, session_callbacks_del, (nghttp2_session_callbacks *))                                                                    \
  F(void, session_callbacks_set_send_callback2, (nghttp2_session_callbacks *, nghttp2_send_cb))                                    \
  F(void, session_callbacks_set_send_data_callback, (nghttp2_session_callbacks *, nghttp2_send_data_cb))                           \
  F(void, session_callbacks_set_on_begin_headers_callback, (nghttp2_session_callbacks *, nghttp2_frame_cb))                        \
  F(void, session_callbacks_set_on_header_callback2, (nghttp2_session_callbacks *, nghttp2_header_cb))                             \
  F(void, session_callbacks_set_on_invalid_header_callback2, (nghttp2_session_callbacks *, nghttp2_header_cb))                     \
  F(void, session_callbacks_set_on_data_chunk_recv_callback, (nghttp2_session_callbacks *, nghttp2_chunk_cb))                      \
  F(void, session_callbacks_set_on_frame_recv_callback, (nghttp2_session_callbacks *, nghttp2_frame_cb))                           \
  F(void, session_callbacks_set_on_frame_send_callback, (nghttp2_session_callbacks *, nghttp2_frame_cb))                           \
  F(void, session_callbacks_set_on_frame_not_send_callback, (nghttp2_session_callbacks *, nghttp2_not_send_cb))                    \
  F(void, session_callbacks_set_on_stream_close_callback, (nghttp2_session_callbacks *, nghttp2_close_cb))                         \
  F(void, session_callbacks_set_rand_callback, (nghttp2_session_callbacks *, void (*)(uint8_t *, size_t)))                         \
  F(int, session_client_new2, (nghttp2_session **, const nghttp2_session_callbacks *, void *, const nghttp2_option *))             \
  F(int, session_server_new2, (nghttp2_session **, const nghttp2_session_callbacks *, void *, const nghttp2_option *))             \
  F(void, session_del, (nghttp2_session *))                                                                                        \
  F(int, session_send, (nghttp2_session *))                                                                                        \
  F(nghttp2_ssize, session_mem_recv2, (nghttp2_session *, const uint8_t *, size_t))                                                \
  F(int, session_resume_data, (nghttp2_session *, int32_t))                                                                        \
  F(int, session_consume, (nghttp2_session *, int32_t, size_t))                                                                    \
  F(int, session_consume_connection, (nghttp2_session *, size_t))                                                                  \
  F(int, session_want_read, (nghttp2_session *))                                                                                   \
  F(int, session_want_write, (nghttp2_session *))                                                                                  \
  F(int, session_check_request_allowed, (nghttp2_session *))                                                                       \
  F(int32_t, session_get_last_proc_stream_id, (nghttp2_session *))                                                                 \
  F(uint32_t, session_get_remote_settings, (nghttp2_session *, int32_t))                                                           \
  F(int, session_set_local_window_size, (nghttp2_session *, uint8_t, int32_t, int32_t))                                            \
  F(int, session_set_stream_user_data, (nghttp2_session *, int32_t, void *))                                                       \
  F(void *, session_get_stream_user_data, (nghttp2_session *, int32_t))                                                            \
  F(int, submit_settings, (nghttp2_session *, uint8_t, const nghttp2_settings_entry *, size_t))                                    \
  F(int32_t, submit_request2,                                                                                                      \
    (nghttp2_session *, const nghttp2_priority_spec *, const nghttp2_nv *, size_t, const nghttp2_data_provider2 *, void *))        \
  F(int, submit_response2, (nghttp2_session *, int32_t, const nghttp2_nv *, size_t, const nghttp2_data_provider2 *))               \
  F(int, submit_trailer, (nghttp2_session *, int32_t, const nghttp2_nv *, size_t))                                                 \
  F(int, submit_rst_stream, (nghttp2_session *, uint8_t, int32_t, uint32_t))                                                       \
  F(int, submit_ping, (nghttp2_session *, uint8_t, const uint8_t *))                                                               \
  F(int, submit_goaway, (nghttp2_session *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t))                                  \
  F(int, submit_shutdown_notice, (nghttp2_session *))

#define NGHTTP2_DECLARE(returns, name, takes) returns(*name) takes;
typedef struct {
  NGHTTP2_FUNCTIONS(NGHTTP2_DECLARE)
} nghttp2_functions;
#undef NGHTTP2_DECLARE

#endif
