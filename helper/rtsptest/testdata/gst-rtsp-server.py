# An RTSP server of GStreamer's, at the port given: /stream has video and sound, that need no more
# than the base and good plugins.
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=15/1"
    " ! jpegenc ! rtpjpegpay name=pay0 pt=26"
    " audiotestsrc is-live=true samplesperbuffer=160 ! audio/x-raw,rate=8000"
    " ! mulawenc ! rtppcmupay name=pay1 pt=0 )"
)
factory.set_shared(True)
server = GstRtspServer.RTSPServer()
server.set_address("::")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/stream", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
