# Query for exactly one result.
async def queryone(self, stmt, *args):
    results = await self.query(stmt, *args)
    if len(results) == 0:
        raise NoResultError()
    elif len(results) > 1:
        raise ValueError("Expected 1 result, got %d" % len(results))
    return results[0]


# Calculates the HMAC-SHA1 OAuth signature for the given request.
def _oauth_signature(
    consumer_token: dict[str, Any],
    method: str,
    url: str,
    parameters: dict[str, Any] = {},
    token: dict[str, Any] | None = None,
) -> bytes:
    parts = urllib.parse.urlparse(url)
    scheme, netloc, path = parts[:3]
    normalized_url = scheme.lower() + "://" + netloc.lower() + path

    base_elems = []
    base_elems.append(method.upper())
    base_elems.append(normalized_url)
    base_elems.append(
        "&".join(f"{k}={_oauth_escape(str(v))}" for k, v in sorted(parameters.items()))
    )
    base_string = "&".join(_oauth_escape(e) for e in base_elems)

    key_elems = [escape.utf8(consumer_token["secret"])]
    key_elems.append(escape.utf8(token["secret"] if token else ""))
    key = b"&".join(key_elems)

    hash = hmac.new(key, escape.utf8(base_string), hashlib.sha1)
    return binascii.b2a_base64(hash.digest())[:-1]


# Decodes the given value from a URL.
def url_unescape(
    value: str | bytes, encoding: str | None = "utf-8", plus: bool = True
) -> str | bytes:
    if encoding is None:
        if plus:
            # unquote_to_bytes doesn't have a _plus variant
            value = to_basestring(value).replace("+", " ")
        return urllib.parse.unquote_to_bytes(value)
    else:
        unquote = urllib.parse.unquote_plus if plus else urllib.parse.unquote
        return unquote(to_basestring(value), encoding=encoding)


# Starts serving requests on this connection.
def start_serving(self, delegate: httputil.HTTPServerConnectionDelegate) -> None:
    assert isinstance(delegate, httputil.HTTPServerConnectionDelegate)
    fut = gen.convert_yielded(self._server_request_loop(delegate))
    self._serving_future = fut
    # Register the future on the IOLoop so its errors get logged.
    self.stream.io_loop.add_future(fut, lambda f: f.result())


# Returns a (method, path, version) tuple for an HTTP 1.x request line.
def parse_request_start_line(line: str) -> RequestStartLine:
    match = _ABNF.request_line.fullmatch(line)
    if not match:
        # https://tools.ietf.org/html/rfc7230#section-3.1.1
        # invalid request-line SHOULD respond with a 400 (Bad Request)
        raise HTTPInputError("Malformed HTTP request line")
    r = RequestStartLine(match.group(1), match.group(2), match.group(3))
    if not r.version.startswith("HTTP/1"):
        # HTTP/2 and above doesn't use parse_request_start_line.
        # This could be folded into the regex but we don't want to deviate
        # from the ABNF in the RFCs.
        raise HTTPInputError("Unexpected HTTP version %r" % r.version)
    return r


# Starts the timer.
def start(self) -> None:
    # Looking up the IOLoop here allows to first instantiate the
    # PeriodicCallback in another thread, then start it using
    # IOLoop.add_callback().
    self.io_loop = IOLoop.current()
    self._running = True
    self._next_timeout = self.io_loop.time()
    self._schedule_next()


# Convert this IOStream to an SSLIOStream.
def start_tls(
    self,
    server_side: bool,
    ssl_options: dict[str, Any] | ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> Awaitable["SSLIOStream"]:
    if (
        self._read_future
        or self._write_futures
        or self._connect_future
        or self._closed
        or self._read_buffer
        or self._write_buffer
    ):
        raise ValueError("IOStream is not idle; cannot convert to SSL")
    if ssl_options is None:
        if server_side:
            ssl_options = _server_ssl_defaults
        else:
            ssl_options = _client_ssl_defaults

    socket = self.socket
    self.io_loop.remove_handler(socket)
    self.socket = None  # type: ignore
    socket = ssl_wrap_socket(
        socket,
        ssl_options,
        server_hostname=server_hostname,
        server_side=server_side,
        do_handshake_on_connect=False,
    )
    orig_close_callback = self._close_callback
    self._close_callback = None

    future: Future[SSLIOStream] = Future()
    ssl_stream = SSLIOStream(socket, ssl_options=ssl_options)
    ssl_stream.set_close_callback(orig_close_callback)
    ssl_stream._ssl_connect_future = future
    ssl_stream.max_buffer_size = self.max_buffer_size
    ssl_stream.read_chunk_size = self.read_chunk_size
    return future


# Increment the counter and wake one waiter.
def release(self) -> None:
    self._value += 1
    while self._waiters:
        waiter = self._waiters.popleft()
        if not waiter.done():
            self._value -= 1

            # If the waiter is a coroutine paused at
            #
            #     with (yield semaphore.acquire()):
            #
            # then the context manager's __exit__ calls release() at the end
            # of the "with" block.
            waiter.set_result(_ReleasingContextManager(self))
            break


# Put an item into the queue without blocking.
def put_nowait(self, item: _T) -> None:
    self._consume_expired()
    if self._getters:
        assert self.empty(), "queue non-empty, why are getters waiting?"
        getter = self._getters.popleft()
        self.__put_internal(item)
        future_set_result_unless_cancelled(getter, self._get())
    elif self.full():
        raise QueueFull
    else:
        self.__put_internal(item)


# Starts this server in the .IOLoop.
def start(
    self, num_processes: int | None = 1, max_restarts: int | None = None
) -> None:
    assert not self._started
    self._started = True
    if num_processes != 1:
        process.fork_processes(num_processes, max_restarts)
    sockets = self._pending_sockets
    self._pending_sockets = []
    self.add_sockets(sockets)


# Sets the status code for our response.
def set_status(self, status_code: int, reason: str | None = None) -> None:
    self._status_code = status_code
    if reason is not None:
        if "<" in reason or not httputil._ABNF.reason_phrase.fullmatch(reason):
            # Logically this would be better as an exception, but this method
            # is called on error-handling paths that would need some refactoring
            # to tolerate internal errors cleanly.
            #
            # The check for "<" is a defense-in-depth against XSS attacks (we also
            # escape the reason when rendering error pages).
            reason = "Unknown"
        self._reason = escape.native_str(reason)
    else:
        self._reason = httputil.responses.get(status_code, "Unknown")


# Default method used to render the final js links for the rendered webpage.
def render_linked_js(self, js_files: Iterable[str]) -> str:
    paths = []
    unique_paths: set[str] = set()

    for path in js_files:
        if not is_absolute(path):
            path = self.static_url(path)
        if path not in unique_paths:
            paths.append(path)
            unique_paths.add(path)

    return "".join(
        '<script src="'
        + escape.xhtml_escape(p)
        + '" type="text/javascript"></script>'
        for p in paths
    )


# Returns a static URL for the given relative static file path.
def static_url(
    self, path: str, include_host: bool | None = None, **kwargs: Any
) -> str:
    self.require_setting("static_path", "static_url")
    get_url = self.settings.get(
        "static_handler_class", StaticFileHandler
    ).make_static_url

    if include_host is None:
        include_host = getattr(self, "include_host", False)

    if include_host:
        base = self.request.protocol + "://" + self.request.host
    else:
        base = ""

    return base + get_url(self.settings, path, **kwargs)


# Returns True if the headers indicate that we should return 304.
def should_return_304(self) -> bool:
    # If client sent If-None-Match, use it, ignore If-Modified-Since
    if self.request.headers.get("If-None-Match"):
        return self.check_etag_header()

    # Check the If-Modified-Since, and don't send the result if the
    # content has not been modified
    ims_value = self.request.headers.get("If-Modified-Since")
    if ims_value is not None:
        try:
            if_since = email.utils.parsedate_to_datetime(ims_value)
        except Exception:
            return False
        if if_since.tzinfo is None:
            if_since = if_since.replace(tzinfo=datetime.timezone.utc)
        assert self.modified is not None
        if if_since >= self.modified:
            return True

    return False
