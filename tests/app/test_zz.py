from app.test_site import *
from app.conftest import *
def test_x(client, handlers, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(Image.new("RGB", (5, 5))))
    print(called(client, "take_photos", as_photo(str(secret))))
    print(called(client, "take_photos", as_photo('/etc/passwd')))
    print(called(client, "take_photos", as_photo("http://127.0.0.1:1/x.png")))
    print([ (one['api_name'], one['api_visibility']) for one in client.get("/config").json['dependencies']])
