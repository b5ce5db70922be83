"""The other streams of the input: what is kept, how, and when it is heard."""

from fractions import Fraction

import av
import numpy as np
import pytest

from propainter.io.fragmented_writer import FragmentedVideoWriter
from propainter.io.remux import Tracks, stream_names
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter

WRITERS = (VideoWriter, FragmentedVideoWriter)
SRT = "1\n00:00:00,200 --> 00:00:00,900\nHello <i>you</i>\n\n2\n00:00:01,000 --> 00:00:01,800\nBye \u00fc\n"
RATE = 48_000


def make_source(path, audio=("aac",), *, seconds=2.0, starts_s=(0.0, 0.0), subtitles=False, layout="mono", **extra):
    """Write a video of 25 frames a second with tones of 440, 880, ... Hz, and text; `starts_s` of video and audio."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264" if path.suffix != ".webm" else "libvpx-vp9", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        tracks = []
        for number, codec in enumerate(audio):
            track = out.add_stream(codec, rate=RATE)
            track.layout, track.bit_rate = layout, 128_000
            track.metadata["language"] = ("eng", "deu", "fra")[number]
            tracks.append(track)
        text = None
        if subtitles:
            path.with_suffix(".srt").write_text(SRT, encoding="utf-8")
            given = av.open(str(path.with_suffix(".srt")))
            text = out.add_stream_from_template(given.streams.subtitles[0])
            text.metadata["language"] = "ita"
        out.metadata.update(extra.get("metadata", {}))
        if "chapters" in extra:
            out.set_chapters(extra["chapters"])
        for number in range(round(seconds * 25)):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 4, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number + round(starts_s[0] * 25), Fraction(1, 25)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        for number, track in enumerate(tracks):
            time = np.arange(round(seconds * RATE)) / RATE
            tone = 0.3 * np.sin(2 * np.pi * 440 * (number + 1) * time)
            channels = len(track.layout.channels)
            wave = np.repeat((tone * 32767).astype(np.int16)[None], channels, axis=0)
            for start in range(0, wave.shape[1], 960):
                part = np.ascontiguousarray(wave[:, start : start + 960].T.reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
                frame.sample_rate, frame.pts = RATE, start + round(starts_s[1] * RATE)
                frame.time_base = Fraction(1, RATE)
                out.mux(track.encode(frame))
            out.mux(track.encode(None))
        if text is not None:
            for packet in given.demux():
                if packet.size:
                    packet.stream = text
                    out.mux(packet)
            given.close()
    return path


def written(folder, source, frames=50, writer=VideoWriter, start_s=None):
    tracks = Tracks(source, start_s)
    path = folder / "out.mp4"
    with writer(path, VideoFormat(Fraction(25), 48, 64), None, tracks.add_to) as video:
        for number in range(frames):
            video.write(np.full((48, 64, 3), number * 4, np.uint8))
    return path, tracks.kept


def packets(path, kind, index=0):
    with av.open(str(path)) as container:
        stream = container.streams.get(**{kind: index})[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def heard(path, index=0):
    """Return the samples of an audio track, and when the first is heard, in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=index))
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]), float(
        frames[0].pts * frames[0].time_base
    )


def onset_s(path):
    """Return when the tone begins."""
    samples, start_s = heard(path)
    loud = np.abs(samples) > 0.2 * np.abs(samples).max()
    return start_s + float(loud.argmax()) / RATE


def pitch_hz(samples):
    return np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)


def starts_and_end(path):
    with av.open(str(path)) as container:
        starts = [float(stream.start_time * stream.time_base) for stream in container.streams]
        return starts, container.duration / 1e6


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "aac"), (".mkv", "libmp3lame"), (".webm", "libopus"), (".mkv", "ac3"), (".mkv", "flac")],
)
def test_audio_is_copied_packet_by_packet(tmp_path, suffix, codec, writer):
    source = make_source(tmp_path / f"in{suffix}", [codec])
    path, kept = written(tmp_path, source, writer=writer)
    assert kept.audio[0].endswith(": copied") and kept.dropped == []
    assert packets(path, "audio") == packets(source, "audio")
    assert len(packets(path, "video")) == 50
    assert sorted(item.name for item in tmp_path.iterdir()) == [source.name, "out.mp4"]


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mov", "pcm_s16le"), (".avi", "pcm_s16le"), (".wmv", "wmav2"), (".mkv", "pcm_f32le")]
)
def test_what_mp4_does_not_play_becomes_aac(tmp_path, suffix, codec):
    source = make_source(tmp_path / f"in{suffix}", [codec])
    path, kept = written(tmp_path, source)
    assert "encoded again as AAC" in kept.audio[0]
    assert pitch_hz(heard(path)[0]) == pytest.approx(440, abs=2)
    assert onset_s(path) - starts_and_end(path)[0][0] == pytest.approx(
        onset_s(source) - starts_and_end(source)[0][0], abs=0.005
    )
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        assert container.streams.audio[0].layout.name == "mono"


@pytest.mark.parametrize(("layout", "expected"), [("5.1", 6), ("hexadecagonal", 2)])
def test_layouts_that_aac_does_not_have_are_mixed(tmp_path, layout, expected):
    source = make_source(tmp_path / "in.mkv", ["pcm_s16le"], layout=layout, seconds=0.4)
    path, kept = written(tmp_path, source, 10)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].channels == expected
    assert ("mixed to stereo" in kept.audio[0]) == (expected == 2)


def test_all_tracks_text_chapters_and_metadata(tmp_path, caplog):
    chapters = [
        {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
        {"id": 2, "start": 1000, "end": 2000, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
    ]
    metadata = {"title": "My film", "creation_time": "2020-01-02T03:04:05.000000Z"}
    source = make_source(tmp_path / "in.mkv", ["aac", "aac"], subtitles=True, chapters=chapters, metadata=metadata)
    path, kept = written(tmp_path, source)
    assert (len(kept.audio), len(kept.subtitles), kept.chapters, kept.dropped) == (2, 1, 2, [])
    with av.open(str(path)) as container:
        assert [stream.language for stream in container.streams.audio] == ["eng", "deu"]
        assert container.streams.subtitles[0].language == "ita"
        assert container.streams.subtitles[0].codec_context.name == "mov_text"
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One", "Two"]
        assert container.metadata.items() >= metadata.items()
    assert [pitch_hz(heard(path, index)[0]) for index in (0, 1)] == pytest.approx([440, 880], abs=2)
    with av.open(str(path)) as container:
        shown = {
            float(packet.pts * packet.time_base): bytes(packet)[2:].split(b"\x00")[0].decode()
            for packet in container.demux(subtitles=0)
            if packet.size > 2
        }
    zero_s = float(starts_and_end(path)[0][0]) - float(starts_and_end(source)[0][0])
    assert list(shown.values()) == ["Hello you", "Bye \u00fc"]
    assert [*shown] == pytest.approx([0.2 + zero_s, 1.0 + zero_s], abs=0.002)
    assert caplog.text == ""


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_tracks_end_with_the_last_frame(tmp_path, codec, writer):
    chapters = [
        {"id": n, "start": n * 1000, "end": n * 1000 + 1000, "time_base": Fraction(1, 1000), "metadata": {}}
        for n in (0, 1)
    ]
    source = make_source(tmp_path / "in.mkv", [codec], subtitles=True, chapters=chapters)
    path, kept = written(tmp_path, source, frames=20, writer=writer)
    starts, end_s = starts_and_end(path)
    assert end_s == pytest.approx(0.8 + starts[0], abs=0.002)
    assert len(heard(path)[0]) / RATE == pytest.approx(0.8, abs=0.05)
    assert kept.chapters == 1
    assert len([packet for packet in packets(path, "subtitles") if len(packet) > 2]) == 1


def test_a_track_that_goes_on_after_the_last_picture_of_the_file_is_kept_whole(tmp_path):
    source = make_source(tmp_path / "in.mkv", ["libmp3lame"])
    shorter = make_source(tmp_path / "short.mkv", [], seconds=1)
    with av.open(str(tmp_path / "both.mkv"), "w") as out, av.open(str(shorter)) as video, av.open(str(source)) as audio:
        pairs = [
            (item, out.add_stream_from_template(item)) for item in (video.streams.video[0], audio.streams.audio[0])
        ]
        for given, target in pairs:
            for packet in given.container.demux(given):
                if packet.size:
                    packet.stream = target
                    out.mux(packet)
    path, _ = written(tmp_path, tmp_path / "both.mkv", 25)
    assert packets(path, "audio") == packets(source, "audio")


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
@pytest.mark.parametrize(("video_s", "audio_s"), [(0.4, 0.0), (0.0, 0.4), (1.4, 1.6)])
def test_streams_keep_their_distance_in_time(tmp_path, codec, video_s, audio_s):
    source = make_source(tmp_path / "in.mkv", [codec], starts_s=(video_s, audio_s))
    path, _ = written(tmp_path, source)
    before, after = (onset_s(item) - starts_and_end(item)[0][0] for item in (source, path))
    assert after == pytest.approx(before, abs=0.005)
    assert min(starts_and_end(path)[0]) == pytest.approx(0, abs=0.03)


def test_the_first_frame_s_time_can_be_given(tmp_path):
    source = make_source(tmp_path / "in.mkv", ["libmp3lame"], starts_s=(0, 0))
    path, _ = written(tmp_path, source, 10, start_s=Fraction(1, 2))
    assert starts_and_end(path)[0][0] == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_kept_is_said_once(tmp_path, caplog):
    source = make_source(tmp_path / "in.mkv", ["aac"])
    with av.open(str(tmp_path / "with.mkv"), "w") as out, av.open(str(source)) as given:
        targets = {item.index: out.add_stream_from_template(item) for item in given.streams}
        out.add_attachment("font.ttf", "application/x-truetype-font", b"letters")
        out.add_mux_stream("dvd_subtitle")
        for packet in given.demux():
            if packet.size:
                packet.stream = targets[packet.stream.index]
                out.mux(packet)
    path, kept = written(tmp_path, tmp_path / "with.mkv")
    assert len(kept.audio) == 1
    assert any("font.ttf" in sentence for sentence in kept.dropped)
    assert any("dvd_subtitle" in sentence and "pictures" in sentence for sentence in kept.dropped)
    assert caplog.text.count("WARNING") == 1
    assert len(packets(path, "audio")) > 50
    assert len(stream_names(tmp_path / "with.mkv")) == 4


def changed(source, target, change):
    """Copy a file packet by packet, without the audio packets that `change` returns False for."""
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        targets = {item.index: out.add_stream_from_template(item) for item in given.streams}
        for packet in given.demux():
            if packet.size and (packet.stream.type != "audio" or change(packet) is not False):
                packet.stream = targets[packet.stream.index]
                out.mux(packet)
    return target


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le"])
def test_sound_after_a_gap_stays_where_it_was(tmp_path, codec):
    """Players that lay samples end to end hear it at its time too: silence fills the gap."""
    source = make_source(tmp_path / "in.mkv", [codec])
    gap = changed(source, tmp_path / "gap.mkv", lambda packet: not 0.5 <= float(packet.pts * packet.time_base) < 1.0)
    path, kept = written(tmp_path, gap)
    samples, start_s = heard(path)
    assert start_s + len(samples) / RATE == pytest.approx(2, abs=0.03)
    level = np.abs(samples)
    assert level[round(0.55 * RATE) : round(0.95 * RATE)].max() < 0.01
    assert level[round(1.05 * RATE) : round(1.95 * RATE)].max() > 0.2
    assert kept.dropped == []


def test_a_track_whose_times_repeat_is_encoded_again(tmp_path):
    source = make_source(tmp_path / "in.mkv", ["libmp3lame", "libmp3lame"])

    def repeat(packet):
        if packet.stream.index == 1:
            packet.pts = packet.dts = packet.pts - packet.pts % 48

    path, kept = written(tmp_path, changed(source, tmp_path / "repeats.mkv", repeat))
    assert "encoded again as AAC, since MP4 does not take it at" in kept.audio[0]
    assert kept.audio[1].endswith(": copied") and kept.dropped == []
    samples, _ = heard(path)
    assert len(samples) / RATE == pytest.approx(2, abs=0.06)
    assert pitch_hz(samples) == pytest.approx(440, abs=2)


def test_of_damaged_audio_the_rest_is_kept(tmp_path, caplog):
    source = make_source(tmp_path / "in.ts", ["aac"])
    content, noise = bytearray(source.read_bytes()), np.random.default_rng(0)
    for place in range(20 * 188, len(content), 6 * 188):
        content[place + 20 : place + 120] = noise.bytes(100)
    source.write_bytes(content)
    path, kept = written(tmp_path, source)
    assert "encoded again" in kept.audio[0]
    samples, start_s = heard(path)
    assert start_s + len(samples) / RATE == pytest.approx(2, abs=0.1)
    assert np.abs(samples[-RATE // 2 :]).max() > 0.2
    assert "damaged packet(s) of stream 1: audio aac, eng: silence instead" in kept.dropped[0]
    assert caplog.text.count("WARNING") == 1


def test_a_track_that_cannot_be_decoded_does_not_cost_the_others(tmp_path, caplog):
    source = make_source(tmp_path / "in.avi", ["wmav2", "libmp3lame"])
    content = bytearray(source.read_bytes())
    for packet in packets(source, "audio"):
        place = content.find(packet)
        content[place : place + len(packet)] = b"\xff" * len(packet)
    source.write_bytes(content)
    path, kept = written(tmp_path, source)
    assert len(packets(path, "video")) == 50
    assert len(kept.audio) == 1 and kept.audio[0].endswith("mp3: copied")
    assert packets(path, "audio")[:80] == packets(source, "audio", 1)[:80]
    assert "none of its packets can be decoded" in kept.dropped[0]
