# Preserve a Morsel's coded_value exactly as received from the server.
def preserve_morsel_with_coded_value(cookie: Morsel[str]) -> Morsel[str]:
    mrsl_val = cast("Morsel[str]", cookie.get(cookie.key, Morsel()))
    # We use __setstate__ instead of the public set() API because it allows us to
    # bypass validation and set already validated state. This is more stable than
    # setting protected attributes directly and unlikely to change since it would
    # break pickling.
    try:
        mrsl_val.__setstate__(  # type: ignore[attr-defined]
            {
                "key": cookie.key,
                "value": cookie.value,
                "coded_value": cookie.coded_value,
            }
        )
    except CookieError:
        return cookie
    return mrsl_val


# Perform HTTP HEAD request.
def head(
    self, url: StrOrURL, *, allow_redirects: bool = False, **kwargs: Any
) -> "_RequestContextManager":
    return _RequestContextManager(
        self._request(
            hdrs.METH_HEAD, url, allow_redirects=allow_redirects, **kwargs
        )
    )


# Read response payload and decode.
async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
    await self.read()

    if encoding is None:
        encoding = self.get_encoding()

    return self._body.decode(encoding, errors=errors)  # type: ignore[union-attr]


# Receive TEXT message.
async def receive_str(self, *, timeout: float | None = None) -> str | bytes:
    msg = await self.receive(timeout)
    if msg.type is not WSMsgType.TEXT:
        raise WSMessageTypeError(
            f"Received message {msg.type}:{msg.data!r} is not WSMsgType.TEXT"
        )
    return msg.data


# Create SSL context.
def _make_ssl_context(verified: bool) -> SSLContext:
    if ssl is None:
        # No ssl support
        return None  # type: ignore[unreachable]
    if verified:
        sslcontext = ssl.create_default_context()
    else:
        sslcontext = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        sslcontext.options |= ssl.OP_NO_SSLv2
        sslcontext.options |= ssl.OP_NO_SSLv3
        sslcontext.check_hostname = False
        sslcontext.verify_mode = ssl.CERT_NONE
        sslcontext.options |= ssl.OP_NO_COMPRESSION
        sslcontext.set_default_verify_paths()
    sslcontext.set_alpn_protocols(("http/1.1",))
    return sslcontext


# Load netrc from file.
def netrc_from_env() -> netrc.netrc | None:
    netrc_env = os.environ.get("NETRC")

    if netrc_env is not None:
        netrc_path = Path(netrc_env)
    else:
        try:
            home_dir = Path.home()
        except RuntimeError as e:
            # if pathlib can't resolve home, it may raise a RuntimeError
            client_logger.debug(
                "Could not resolve home directory when "
                "trying to look for .netrc file: %s",
                e,
            )
            return None

        netrc_path = home_dir / (
            "_netrc" if platform.system() == "Windows" else ".netrc"
        )

    try:
        return netrc.netrc(str(netrc_path))
    except netrc.NetrcParseError as e:
        client_logger.warning("Could not parse .netrc file: %s", e)
    except OSError as e:
        netrc_exists = False
        with contextlib.suppress(OSError):
            netrc_exists = netrc_path.is_file()
        # we couldn't read the file (doesn't exist, permissions, etc.)
        if netrc_env or netrc_exists:
            # only warn if the environment wanted us to load it,
            # or it appears like the default file does actually exist
            client_logger.warning("Could not read .netrc file: %s", e)

    return None


# Calculate when to execute a timeout.
def calculate_timeout_when(
    loop_time: float,
    timeout: float,
    timeout_ceiling_threshold: float,
) -> float:
    when = loop_time + timeout
    if timeout > timeout_ceiling_threshold:
        return ceil(when)
    return when


# Writes chunk of data to a stream.
async def write(
    self,
    chunk: Union[bytes, bytearray, "memoryview[int]", "memoryview[bytes]"],
    *,
    drain: bool = True,
    LIMIT: int = 0x10000,
) -> None:
    if self._on_chunk_sent is not None:
        await self._on_chunk_sent(chunk)

    if isinstance(chunk, memoryview):
        if chunk.nbytes != len(chunk):
            # just reshape it
            chunk = chunk.cast("c")

    if self._compress is not None:
        chunk = await self._compress.compress(chunk)
        if not chunk:
            return

    if self.length is not None:
        chunk_len = len(chunk)
        if self.length >= chunk_len:
            self.length = self.length - chunk_len
        else:
            chunk = chunk[: self.length]
            self.length = 0
            if not chunk:
                return

    # Handle buffered headers for small payload optimization
    if self._headers_buf and not self._headers_written:
        self._send_headers_with_payload(chunk, False)
        if drain and self.buffer_size > LIMIT:
            self.buffer_size = 0
            await self.drain()
        return

    if chunk:
        if self.chunked:
            self._write_chunked_payload(chunk)
        else:
            self._write(chunk)

        if drain and self.buffer_size > LIMIT:
            self.buffer_size = 0
            await self.drain()


# Returns charset parameter from Content-Type header or default.
def get_charset(self, default: str) -> str:
    ctype = self.headers.get(CONTENT_TYPE, "")
    mimetype = parse_mimetype(ctype)
    return mimetype.parameters.get("charset", self._default_charset or default)


# Close all part payloads that need explicit closing.
async def close(self) -> None:
    if self._consumed:
        return
    self._consumed = True

    # Close all parts that need explicit closing
    # We catch and log exceptions to ensure all parts get a chance to close
    # we do not use asyncio.gather() here because we are not allowed
    # to suspend given we may be called during cleanup
    for idx, (part, _, _) in enumerate(self._parts):
        if not part.autoclose and not part.consumed:
            try:
                await part.close()
            except Exception as exc:
                internal_logger.error(
                    "Failed to close multipart part %d: %s", idx, exc, exc_info=True
                )


# Return bytes representation of the value.
async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    loop = asyncio.get_running_loop()

    # Use instance encoding if available, otherwise use parameter
    actual_encoding = self._encoding or encoding

    def _read_and_encode() -> bytes:
        self._set_or_restore_start_position()
        # TextIO read() always returns the full content
        return self._value.read().encode(actual_encoding, errors)

    return await loop.run_in_executor(None, _read_and_encode)


# Return peername if available.
def peername(
    self,
) -> str | tuple[str, int, int, int] | tuple[str, int] | None:
    return (
        None
        if self.transport is None
        else self.transport.get_extra_info("peername")
    )


# Return BODY as JSON.
async def json(
    self,
    *,
    loads: JSONDecoder = DEFAULT_JSON_DECODER,
    content_type: str | None = "application/json",
) -> Any:
    body = await self.text()
    if content_type:
        if not is_expected_content_type(self.content_type, content_type):
            raise HTTPBadRequest(
                text=(
                    "Attempt to decode JSON with "
                    "unexpected mimetype: %s" % self.content_type
                )
            )

    return loads(body)


# Shortcut for add_route with method GET.
def add_get(
    self,
    path: str,
    handler: Handler,
    *,
    name: str | None = None,
    allow_head: bool = True,
    **kwargs: Any,
) -> AbstractRoute:
    resource = self.add_resource(path, name=name)
    if allow_head:
        resource.add_route(hdrs.METH_HEAD, handler, **kwargs)
    return resource.add_route(hdrs.METH_GET, handler, **kwargs)
