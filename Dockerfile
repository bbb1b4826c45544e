# docker build -t rales .                             # torch without CUDA
# docker build -t rales:cuda --build-arg TORCH=cuda . # torch as PyPI has it, with CUDA; run it with --gpus all
# docker run --rm -v "$PWD:/work" rales predict recording.wav
# docker run --rm -p 127.0.0.1:8765:8765 -v "$PWD:/work" rales serve --host 0.0.0.0 --allow-host localhost
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ARG EXTRAS=train,report,web,export,av
COPY constraints/cpu.txt /tmp/cpu.txt
COPY --from=wheel /wheels /tmp/wheels
RUN case "${TORCH}" in cpu) constraint="-c /tmp/cpu.txt";; cuda) constraint="";; *) echo "TORCH=${TORCH}: expected cpu or cuda" >&2; exit 2;; esac \
    && pip install --no-cache-dir ${constraint} "$(echo /tmp/wheels/rales-*.whl)[${EXTRAS}]" \
    && rm -r /tmp/wheels /tmp/cpu.txt \
    && useradd --create-home rales && install -d -o rales /work
USER rales
WORKDIR /work
EXPOSE 8765
ENTRYPOINT ["rales"]
CMD ["--help"]
