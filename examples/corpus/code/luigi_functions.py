# When building documentation, we want Parameter objects to show their description in a nice way
def parameter_repr(self):
    significance = 'Insignificant ' if not self.significant else ''
    class_name = self.__class__.__name__
    has_default = self._default != luigi.parameter._no_value
    default = ' (defaults to {})'.format(self._default) if has_default else ''
    description = (': ' + self.description if self.description else '')
    return significance + class_name + default + description


# Wrap submit_job with useful defaults
def submit_job(self, job_definition, parameters, job_name=None, queue=None):
    if job_name is None:
        job_name = _random_id()
    response = self._client.submit_job(jobName=job_name, jobQueue=queue or self.get_active_queue(), jobDefinition=job_definition, parameters=parameters)
    return response["jobId"]


# Arbitrarily picks an object in input and reads the Avro schema from it.
def _get_input_schema(self):
    assert avro, "avro module required"

    input_target = flatten(self.input())[0]
    input_fs = input_target.fs if hasattr(input_target, "fs") else GCSClient()
    input_uri = self.source_uris()[0]
    if "*" in input_uri:
        file_uris = list(input_fs.list_wildcard(input_uri))
        if file_uris:
            input_uri = file_uris[0]
        else:
            raise RuntimeError("No match for " + input_uri)

    schema = []
    exception_reading_schema = []

    def read_schema(fp):
        # fp contains the file part downloaded thus far. We rely on that the DataFileReader
        # initializes itself fine as soon as the file header with schema is downloaded, without
        # requiring the remainder of the file...
        try:
            reader = avro.datafile.DataFileReader(fp, avro.io.DatumReader())
            schema[:] = [BigQueryLoadAvro._get_writer_schema(reader.datum_reader)]
        except Exception as e:
            # Save but assume benign unless schema reading ultimately fails. The benign
            # exception in case of insufficiently big downloaded file part seems to be:
            # TypeError('ord() expected a character, but string of length 0 found',).
            exception_reading_schema[:] = [e]
            return False
        return True

    input_fs.download(input_uri, 64 * 1024, read_schema).close()
    if not schema:
        raise exception_reading_schema[0]
    return schema[0]


# Open the FileSystem target.
def open(self, mode):
    if mode == "w":
        return self.format.pipe_writer(AtomicFtpFile(self._fs, self.path))

    elif mode == "r":
        temppath = "{}-luigi-tmp-{:09d}".format(self.path.lstrip("/"), random.randrange(0, 10_000_000_000))
        try:
            # store reference to the TemporaryDirectory because it will be removed on GC
            self.__temp_dir = tempfile.TemporaryDirectory(prefix="luigi-contrib-ftp_")
        except AttributeError:
            # TemporaryDirectory only available in Python3, use old behaviour in Python2
            # this file will not be cleaned up automatically
            self.__tmp_path = os.path.join(tempfile.gettempdir(), "luigi-contrib-ftp", temppath)
        else:
            self.__tmp_path = os.path.join(self.__temp_dir.name, temppath)

        # download file to local
        self._fs.get(self.path, self.__tmp_path)

        return self.format.pipe_reader(FileWrapper(io.BufferedReader(io.FileIO(self.__tmp_path, "r"))))
    else:
        raise Exception("mode must be 'r' or 'w' (got: %s)" % mode)


# Run the reducer on the hadoop node.
def run_reducer(self, stdin=sys.stdin, stdout=sys.stdout):
    self.init_hadoop()
    self.init_reducer()
    outputs = self._reduce_input(self.internal_reader((line[:-1] for line in stdin)), self.reducer, self.final_reducer)
    self.writer(outputs, stdout)


# Tracking is done by requesting each job and then searching for whether the job has one of the
# following states: - "RUN", - "PEND", - "SSUSP", - "EXIT" based on the LSF documentation
def track_job(job_id):
    cmd = ["bjobs", "-noheader", "-o", "stat", str(job_id)]
    track_job_proc = subprocess.Popen(cmd, stdout=subprocess.PIPE, shell=False)
    status = track_job_proc.communicate()[0].strip("\n")
    return status


# Will create the schema in the database
def create_schema(self, connection):
    if "." not in self.table:
        return

    query = "CREATE SCHEMA IF NOT EXISTS {schema_name};".format(schema_name=self.table.split(".")[0])
    connection.cursor().execute(query)


# Get an iterable with S3 folder contents. Iterable contains paths relative to queried path.
def list(self, path, start_time=None, end_time=None, return_key=False):  # backwards compat
    key_path_len = len(self._add_path_delimiter(path))
    for item in self.listdir(path, start_time=start_time, end_time=end_time, return_key=return_key):
        if return_key:
            yield item
        else:
            yield item[key_path_len:]


# Gets result back from Salesforce as whatever type was originally sent in create_batch (xml, or
# csv).
def get_batch_result(self, job_id, batch_id, result_id):
    response = requests.get(self._get_batch_result_url(job_id, batch_id, result_id), headers=self._get_session_headers())
    response.raise_for_status()

    return response.content


# Given a grouped set of tasks, returns a LuigiStatusCode
def _tasks_status(set_tasks):
    if set_tasks["ever_failed"]:
        if not set_tasks["failed"]:
            return LuigiStatusCode.SUCCESS_WITH_RETRY
        else:
            if set_tasks["scheduling_error"]:
                return LuigiStatusCode.FAILED_AND_SCHEDULING_FAILED
            return LuigiStatusCode.FAILED
    elif set_tasks["scheduling_error"]:
        return LuigiStatusCode.SCHEDULING_FAILED
    elif set_tasks["not_run"]:
        return LuigiStatusCode.NOT_RUN
    elif set_tasks["still_pending_ext"]:
        return LuigiStatusCode.MISSING_EXT
    else:
        return LuigiStatusCode.SUCCESS


# For internal use only (until further notice)
def wrap_traceback(traceback):
    if email().format == "html":
        try:
            from pygments import highlight
            from pygments.formatters import HtmlFormatter
            from pygments.lexers import PythonTracebackLexer

            with_pygments = True
        except ImportError:
            with_pygments = False

        if with_pygments:
            formatter = HtmlFormatter(noclasses=True)
            wrapped = highlight(traceback, PythonTracebackLexer(), formatter)
        else:
            wrapped = "<pre>%s</pre>" % traceback
    else:
        wrapped = traceback

    return wrapped


# Checks if a target path is within a given directory.
def _is_within_directory(directory, target):
    abs_directory = os.path.abspath(directory)
    abs_target = os.path.abspath(target)
    prefix = os.path.commonprefix([abs_directory, abs_target])
    return prefix == abs_directory


# Returns True if the path for this FileSystemTarget exists; False otherwise.
def exists(self) -> bool:
    path = self.path
    if "*" in path or "?" in path or "[" in path or "{" in path:
        logger.warning("Using wildcards in path %s might lead to processing of an incomplete dataset; override exists() to suppress the warning.", path)
    return self.fs.exists(path)


# Return all of the registered classes.
def _get_reg(cls):
    # We have to do this on-demand in case task names have changed later
    reg = dict()
    for task_cls in cls._reg:
        if not task_cls._visible_in_registry:
            continue

        name = task_cls.get_task_family()
        if name in reg and (
            reg[name] == Register.AMBIGUOUS_CLASS  # Check so issubclass doesn't crash
            or not issubclass(task_cls, reg[name])
        ):
            # Registering two different classes - this means we can't instantiate them by name
            # The only exception is if one class is a subclass of the other. In that case, we
            # instantiate the most-derived class (this fixes some issues with decorator wrappers).
            reg[name] = Register.AMBIGUOUS_CLASS
        else:
            reg[name] = task_cls

    return reg
