"""One small file of every format of `shared/labels/tools`, written by hand as the formats are documented."""

import json

EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="me" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/my%20films/a.mp4" MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL="./a.mp4"
      TIME_ORIGIN="500"/>
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/a.wav" MIME_TYPE="audio/x-wav"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1000"/>
    <TIME_SLOT TIME_SLOT_ID="ts2"/>
    <TIME_SLOT TIME_SLOT_ID="ts3"/>
    <TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="2500"/>
  </TIME_ORDER>
  <TIER TIER_ID="notes" PARENT_REF="mood">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a2">
      <ANNOTATION_VALUE>unsure</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a4">
      <ANNOTATION_VALUE>very</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="mood">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>calm</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
      <ANNOTATION_VALUE>angry &amp; loud</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE/></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""

VIA = json.dumps(
    {
        "project": {"pid": "p", "vid_list": ["1", "2"]},
        "attribute": {
            "1": {"aname": "act", "type": 4, "options": {"0": "walk", "1": "run"}, "default_option_id": ""},
            "2": {"aname": "who", "type": 2, "options": {"a": "Ann", "b": "Bob"}},
            "3": {"aname": "say", "type": 1, "options": {}},
        },
        "file": {
            "1": {"fid": "1", "fname": "a.mp4", "type": 4, "loc": 1, "src": ""},
            "2": {"fid": "2", "fname": "b.mp4", "type": 4, "loc": 2, "src": "https://h.org/x/b%20c.mp4"},
        },
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
        "metadata": {
            "1_x": {"vid": "1", "flg": 0, "z": [1.25, 3], "xy": [], "av": {"1": "1", "2": "a,b", "3": ""}},
            "1_y": {"vid": "1", "flg": 0, "z": [4.5], "xy": [2, 1, 1, 5, 5], "av": {"3": "hi\nthere"}},
            "2_z": {"vid": "2", "flg": 0, "z": [], "xy": [], "av": {"1": "0"}},
        },
    }
)


def studio(*results: dict, **task: object) -> str:
    body = {
        "id": 1,
        "annotations": [{"id": 5, "result": [*results]}],
        "data": {"video": "/data/upload/3/1a2b3c4d-a.mp4"},
    }
    return json.dumps([body | task])


TIMELINE = {
    "id": "r1",
    "type": "timelinelabels",
    "from_name": "mood",
    "value": {"ranges": [{"start": 1, "end": 10}], "timelinelabels": ["calm"], "framesCount": 100, "duration": 4.0},
}
OBJECT = {
    "id": "r2",
    "type": "videorectangle",
    "from_name": "box",
    "value": {
        "labels": ["dog"],
        "framesCount": 100,
        "duration": 4,
        "sequence": [{"frame": 41, "enabled": True}, {"frame": 3, "enabled": True}, {"frame": 20, "enabled": False}],
    },
}
SOUND = {
    "id": "r3",
    "type": "labels",
    "from_name": "snd",
    "value": {"start": 0.5, "end": 2, "channel": 0, "labels": ["x"]},
}
STUDIO = studio(TIMELINE, OBJECT, SOUND)

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><id>7</id><size>10</size><start_frame>5</start_frame><stop_frame>50</stop_frame>
<frame_filter>step=5</frame_filter><source>films/a.mp4</source>
<original_size><width>10</width><height>10</height></original_size></task></meta>
<track id="0" label="dog">
  <box frame="5" outside="0" keyframe="1" xtl="1"><attribute name="mood">calm</attribute></box>
  <box frame="10" outside="0" keyframe="0" xtl="1"><attribute name="mood">angry</attribute></box>
  <box frame="20" outside="1" keyframe="1" xtl="1"><attribute name="mood">angry</attribute></box>
  <box frame="40" outside="0" keyframe="1" xtl="1"/>
</track>
<tag label="rain" frame="10"/><tag label="rain" frame="15"/><tag label="rain" frame="50"/>
</annotations>
"""

IMAGES = """<annotations><meta><job><id>7</id><size>4</size><source>a.mp4</source></job></meta>
<image id="0" name="f0"><box label="dog"><attribute name="mood">calm</attribute></box></image>
<image id="1" name="f1"><box label="dog"/><tag label="rain"/></image><image id="2" name="f2"/>
<image id="3" name="f3"><box label="dog"/></image></annotations>
"""

AUDACITY = "0.5\t1,75\tcalm\n\\\t100.0\t2000.0\n\n2\t2\tbang here\n3\t4\t\n"
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE nothing
of this

1
00:01.000 --> 00:02.500 align:start position:10%
<v Ann>Hello <i>you</i> &amp; me
again

100:00:00.000 --> 100:00:01.000
plain
"""
SRT = "1\r\n00:00:01,000 --> 00:00:02,500 X1:1 X2:2\r\n{\\an8}<i>Hi</i>\r\nyou\r\n\r\n2\r\n01:00.5 --> 01:01\r\nx\r\n"
AGGREGATED = (
    "Observation id,Media file name,FPS,Subject,Behavior,Behavioral category,Modifiers,Behavior type,"
    "Start (s),Stop (s),Duration (s)\no1,#1:films/a.mp4,25,Ann,walk,,,STATE,1.5,3.25,1.75\n"
    "o1,#1:films/a.mp4,25,No focal subject,bark,,,POINT,2,2,NA\no2,b.mp4,25,Bob,walk,,,STATE,0,1,1\n"
)
TABULAR = (
    "Observation id\to1\n\nMedia file(s)\n\nTime\tMedia file path\tSubject\tBehavior\tComment\tStatus\n"
    "1.5\ta.mp4\tAnn\twalk\t\tSTART\n2\ta.mp4\tAnn\tbark\t\tPOINT\n3.25\ta.mp4\tAnn\twalk\t\tSTOP\n"
)

SAMPLES = {
    "a.eaf": EAF,
    "via.json": VIA,
    "studio.json": STUDIO,
    "cvat.xml": CVAT,
    "images.xml": IMAGES,
    "a.txt": AUDACITY,
    "a.vtt": VTT,
    "a.srt": SRT,
    "boris.csv": AGGREGATED,
    "boris.tsv": TABULAR,
}
FORMAT_OF = ["elan", "via", "labelstudio", "cvat", "cvat", "audacity", "webvtt", "srt", "boris", "boris"]
